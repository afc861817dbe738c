r"""Families of ways of answering a multiple-choice question, and a measure of how the parser reads them.

A family holds phrasings of one kind, so that half of the families can be kept away from whoever works on the parser:
`HELD_OUT` is the half whose names have the smaller hashes. All were written before the parser was changed for any.

`@L@` and `@T@` are letter and text of the choice given, `@OL@` and `@OT@` of another, `@XL@` and `@XT@` of a third;
`@ORD@` and `@NUM@` its place in words and digits, `@ALL@` and `@INLINE@` the list of all choices. `@t@` begins with
a small letter, `@TU@` is in capitals, `@TT@` in title case, `@Tn@` without its last full stop.

`python tests/answer_families.py QUESTIONS.json [dev|held|later|none]` prints the rates per family.
"""

import hashlib
import json
import string
import sys
from collections.abc import Sequence

from eval.parsing.choices import parse_choice

FAMILIES: dict[str, list[str]] = {
    "bare": [
        "@L@ .", "<@L@>", "{@L@}", "[[@L@]]", "- @L@", "\u2192 @L@", "(@L@).", "@l@.", "( @L@ )", "@L@:",
        "\u2022 @L@", "*@L@*", "'@L@'", "#@L@", "~ @T@", "@T@!", "@T@\u2026", "...@T@", "=> @T@", "  @T@  \n\n",
    ],
    "quotation_marks": [
        "\u201c@T@\u201d", "\u2018@T@\u2019", "\xab @T@ \xbb", "\u201e@T@\u201c", "\u300c@T@\u300d", "'@T@.'",
        '"@L@. @T@"', "The answer is \u201c@L@\u201d.", "I would answer \u2018@T@\u2019.",
        "It says \u201c@T@\u201d, so \u201c@L@\u201d.", "The right option reads \u201c@T@.\u201d", '\\"@T@\\"',
    ],
    "option_word": [
        "Alternative @L@", "Item @L@", "Answer @L@", "answer choice @L@", "Letter: @L@", "Option: @L@",
        "Response @L@.", "Option #@L@", "Option @L@)", "option '@L@'", "OPTION @L@", "Choice (@L@): @T@",
        "Option-@L@", "The option is @L@.", "It's option @L@", "Statement @L@ is true.", "That's choice @L@!",
        "It is letter @L@.",
    ],
    "answer_is": [
        "The answer would have to be @T@.", "The answer here is @L@.", "The right answer is definitely @T@.",
        "The answer that fits best is @L@.", "The answer is clearly option @L@.", "the answer is most likely @T@",
        "So the answer must be @L@.", "The most suitable answer is @L@.", "The only sensible answer is @T@.",
        "The best answer among these is (@L@) @T@.", "An appropriate answer would be @T@.", "the answer's @L@",
        "I'd say the answer is @T@, based on what I hear.", "The answer to your question is @T@.",
        "The correct answer, in my opinion, is @L@.", "The correct response is therefore @L@.",
        "Correct answer is @L@",
    ],
    "i_choose": [
        "I pick @L@.", "My vote goes to @T@.", "I lean toward @T@.", "I'm going to say @T@.", "I'd bet on @T@.",
        "My money is on @T@.", "I'm choosing @L@.", "I've decided on @L@.", "I will take @L@.", "Let's go with @L@.",
        "We should choose (@L@).", "I would mark @L@.", "I select: @T@", "I'd opt for @T@.",
        "I am inclined to say @T@.", "I'd have to go with @T@ here.", "Going with @L@.", "I have chosen option @L@.",
        "My pick: @T@", "I'm sticking with @T@.",
    ],
    "ordinal": [
        "The @ORD@ option.", "The @ORD@ one.", "the @ORD@ choice", "Option @NUM@.", "Choice @NUM@",
        "The @ORD@ option is correct.", "I'd choose the @ORD@ option, @T@.", "The answer is option @NUM@: @T@.",
        "The @ORD@ answer fits best.", "It's the @ORD@ of the listed options.", "Option @NUM@) @T@",
        "The correct option is the @ORD@ one.",
    ],
    "not_but": [
        "Not @OT@ but @T@.", "It isn't @OT@ but @T@.", "@T@, not @OT@.", "This is not @OT@ but rather @T@.",
        "It's @T@ \u2014 definitely not @OT@.", "Far from being @OT@, this is @T@.",
        "What you hear isn't @OT@; it's @T@.", "The answer isn't (@OL@) but (@L@).",
        "Certainly not @OT@. @T@, rather.", "@T@ (not @OT@)", "It was never @OT@; it was @T@.", "No, not @OT@: @T@.",
        "I would not say @OT@. I would say @T@.", "The answer is not @OL@, it is @L@.",
        "Neither @OT@ nor @XT@, but @T@.", "Not @OT@ or @XT@; the sound is @T@.",
    ],
    "self_correction": [
        "@OL@. No wait, @L@.", "The answer is @OL@. Actually, let me reconsider: it's @L@.",
        "@OT@... scratch that, @T@.", "At first I thought @OL@, but on reflection it's @L@.",
        "I said @OL@ but I meant @L@.", "Sorry, I made a mistake: the answer is @L@, not @OL@.",
        "The answer is @OT@. Correction: the answer is @T@.", "Hmm, @OT@? Actually, @T@.",
        "My first answer was @OL@; my final answer is @L@.",
        "Initially I leaned towards @OT@. After a second listen, I'm now convinced it's @T@.",
        "@OL@) @OT@\n\nWait, that's not right. The correct answer is @L@) @T@.",
        "Let me revise my answer from @OL@ to @L@.", "I take that back: not @OT@. It's @T@.",
        "Answer: @OL@\n\nOn second thought, Answer: @L@",
    ],
    "markdown": [
        "**Answer**: @L@", "**Answer:** **@L@**", "### **@L@. @T@**", "- [x] @L@. @T@", "> @T@", "***@T@***",
        "~~@OT@~~ @T@", "**Final Answer**\n\n@L@) @T@", "## Conclusion\n**@T@**", "**Correct option:** @L@",
        "* **@T@**", "1. @T@", "**Answer: (@L@)** @T@", "The correct answer is **@L@)** *@T@*.", "---\n**@L@**\n---",
        "__Answer__: _@T@_",
        "**The correct answer is:**\n\n**@L@. @T@**\n\n---\n*Rationale:* the clip has no trace of @OT@.",
        "- **Answer:** @T@\n- **Why not @OT@:** it is never heard.",
    ],
    "latex": [
        "$@L@$", "\\(@L@\\)", "$$\\boxed{@L@}$$", "\\fbox{@L@}", "The answer is \\textbf{(@L@)}.",
        "\\boxed{@L@. \\text{@T@}}", "\\boxed{\\mathrm{@L@}}", "\\[\n\\boxed{@L@}\n\\]", "$\\mathbf{@L@}$",
        "\\boxed{\\textbf{@L@: @T@}}", "$\\boxed{(@L@)}$.", "Thus $\\text{Answer} = @L@$.", "\\text{@T@}",
        "\\boxed {@T@}", "\\boxed{\\text{Option @L@}}", "\\boxed{\\text{@L@) } \\text{@T@}}",
    ],
    "json": [
        '{"answer": {"letter": "@L@", "text": "@T@"}}', '{"selected_option": "@L@"}', '{"correct_answer": "@T@"}',
        '{"answer": ["@L@"]}', '{"answer_letter": "@L@", "answer_text": "@T@"}', '{"label": "@L@"}',
        '{"result": "@T@"}', '{"final": "@L@", "rejected": ["@OL@"]}', '{"answer": "Option @L@"}',
        '{"Answer": "(@L@) @T@"}', '```json\n{"thoughts": "could be @OT@", "answer": "@L@",}\n```',
        '{"response": "@T@", "confidence": 0.83}', '{answer: "@L@"}', "{'choice': '@L@', 'reason': 'it fits'}",
        '{"answer":"@L@"} {"answer":"@L@"}', '["@L@"]',
        '{"analysis": "@OT@ is not heard.", "selected_choice": "@T@"}', '{"output": "@L@. @T@"}',
    ],
    "tags": [
        "<response>@L@</response>", "<ans>@L@</ans>", "<output>@T@</output>", "[Answer: @L@]", "<<<@L@>>>",
        "<answer>@L@", "<final_answer>@L@. @T@</final_answer>", "<answer> Option @L@ </answer>",
        "<answer>\n@T@\n</answer>\nI hope this helps.", "<reason>@OT@ is quieter.</reason><answer>@T@</answer>",
        "<Answer>The answer is @L@.</Answer>", "[[ANSWER: @L@]]", "<selected>@L@</selected>",
        "<answer>(@L@)</answer> not (@OL@)", "{{@L@}}", "##@L@##",
    ],
    "thinking": [
        "<reasoning>Maybe @OT@. The answer is @OL@?</reasoning>\n@L@", "[THINK]@OT@ or @T@...[/THINK]@T@",
        "<scratchpad>@OL@ first, then @L@.</scratchpad>\nAnswer: @L@", "<analysis>@OT@ is ruled out.</analysis>\n@T@",
        "\u25c1think\u25b7It might be @OT@.\u25c1/think\u25b7@T@", "<think>\n\n</think>\n\n@L@",
        "Thought: it may be @OT@.\nAnswer: @T@",
        "<|channel|>analysis<|message|>Perhaps @OT@.<|end|><|channel|>final<|message|>@L@",
        "<think>The answer is @OL@. Hmm, no.</think>I believe it is @T@.",
        "Thinking...\nCould be @OT@.\n...done thinking.\n\n@T@", "<seed:think>@OT@?</seed:think>@L@",
        "<think>@OT@ seems right at first.</think><answer>@L@</answer>",
        "<thinking>Option @OL@ says @OT@.</thinking>\n\n**@L@**",
        "<think>I would choose @OL@.</think>\nThe sound is @t@.",
    ],
    "verdict_per_option": [
        "@OL@. @OT@: incorrect\n@L@. @T@: correct", "\u274c @OL@. @OT@\n\u2705 @L@. @T@", "@OT@ \u2717\n@T@ \u2713",
        "- @OL@) @OT@ \u2014 Incorrect. It is not heard.\n- @L@) @T@ \u2014 Correct. It is heard "
        "throughout.",
        "@L@. @T@: matches\n@OL@. @OT@: does not match", "@OT@: 2/10\n@T@: 9/10\nBest: @T@",
        "Option @OL@: No evidence.\nOption @L@: Strong evidence.\n\nSo option @L@.",
        "@OL@ - wrong\n@XL@ - wrong\n@L@ - right", "@T@ (correct)\n@OT@ (incorrect)", "@OT@: false. @T@: true.",
        "@OT@ - unlikely\n@XT@ - unlikely\n@T@ - very likely", "(@OL@) \u2013 rejected; (@L@) \u2013 accepted",
        "1. @OT@ - no, not present.\n2. @T@ - yes, clearly audible.",
    ],
    "all_options_then_choice": [
        "The options are @INLINE@. The best fit is @L@.", "The choices given are:\n@ALL@\n\nI choose @T@.",
        "Considering @INLINE@, I conclude @T@.", "Options:\n@ALL@\nAnswer:\n@L@", "@ALL@\n\n@L@",
        "Among @INLINE@ the one that fits is @T@.", "Of the listed options (@INLINE@), only @T@ matches the audio.",
        "Choose one:\n@ALL@\n\u2192 @L@. @T@",
        "You gave me these options: @INLINE@. After listening, @T@ is what is heard.",
        "@ALL@\n\nThe correct choice is (@L@).",
        "Let me go through them.\n@ALL@\nThe third-party noise is irrelevant. Final answer: @T@.",
    ],
    "rationale_names_other": [
        "@T@. If it were @OT@, the onset would be softer.", "@L@. @OT@ would have sounded quite different.",
        "@T@. There are no signs of @OT@ in this clip.", "@T@ \u2014 @OT@ and @XT@ don't match the timbre.",
        "(@L@) @T@. Reason: compared with @OT@, the decay is longer.",
        "@L@\n@OT@ can be excluded because of the timing.",
        "The answer is @T@. Note that @OT@ often sounds similar, and people confuse the two.",
        "@T@. I considered @OT@ as well, but the pitch is too low for that.",
        "@L@. Unlike @OT@, this one has a clear rhythm.",
        "@T@ is the answer. One could argue for @OT@, but the evidence is weak.",
        "Answer: @L@. Not @OL@, since that needs more bass.",
        "@T@\n\nWhy: the sound is steady. @OT@ would come in bursts. @XT@ would be much louder.",
        "The correct answer is @L@. The distractors @OT@ and @XT@ are plausible but not supported.",
        "@L@) @T@ \u2013 the audio would need to include more activity for @OT@.",
    ],
    "comparison": [
        "It is closer to @T@ than to @OT@.", "@T@ is a better fit than @OT@.", "I prefer @T@ to @OT@.",
        "I'd take @T@ over @OT@.", "Compared with @OT@, @T@ is far more plausible.", "@T@ rather than @OT@.",
        "More @T@ than @OT@.", "@T@ outweighs @OT@ here.", "It resembles @T@ much more than @OT@.",
        "@OT@ is less likely than @T@.", "@T@ seems more probable than either @OT@ or @XT@.",
        "The clip matches @T@ better than @OT@.", "(@L@) is more convincing than (@OL@).", "@T@ beats @OT@.",
    ],
    "elimination": [
        "Since it can't be @OT@ or @XT@, it has to be @T@.", "Eliminating @OL@ and @XL@, we are left with @L@.",
        "@OT@ is out, so @T@.", "There's no @OT@ here, so the answer is @T@.", "I can rule out @OT@; @T@ remains.",
        "By process of elimination, @T@.", "That leaves us with @T@.", "Everything but @T@ can be excluded.",
        "All options except @T@ are inconsistent with the audio.", "Only @T@ is left.",
        "Excluding @OT@ and @XT@ leaves only @T@.", "None of the other options fit, so @L@.",
        "None of the others match; @T@ is correct.", "The others are wrong: @L@.",
        "@OT@ and @XT@ are easily dismissed. @T@ it is.",
    ],
    "hedged_choice": [
        "Probably @T@.", "Perhaps @T@.", "I think @L@, but I'm not certain.", "@T@, most likely.",
        "If I had to guess: @T@", "Not 100% sure, but @L@.", "My best guess would be @T@.",
        "It is hard to tell, but @T@ seems most likely.", "I can't be certain, but it sounds like @T@.",
        "It's difficult to determine exactly, however @T@ is the most plausible.", "It might be @T@.",
        "I believe it could be @T@.", "@L@, I guess.", "Likely @L@.", "@T@ I think", "maybe @t@",
        "Although the quality is poor, I would guess @T@.", "It's unclear, but I'd lean towards (@L@).",
        "While I cannot be completely sure, the answer is probably @L@.", "I'm fairly sure it is @T@.",
    ],
    "confidence": [
        "@L@ (90% confident)", "@L@ \u2014 confidence: high", "Confidence: 0.9\nAnswer: @L@", "@T@ (95%)",
        "@T@ [confidence 0.7]", "Answer: @T@ (confidence: medium)", "I'm 80% sure it's @T@.",
        "With high confidence: @L@", "@L@. Confidence level: 8/10.", "Answer: @L@, Confidence: 75%",
        "@T@, with about 60 percent certainty.",
    ],
    "about_the_audio": [
        "The audio contains @t@.", "You can hear @t@ in the recording.", "This recording features @t@.",
        "What can be heard is @t@.", "This appears to be @t@.", "The clip is an example of @t@.",
        "The sound in the audio is @t@.", "There is @t@ in the clip.", "I hear what seems to be @t@.",
        "The speaker describes @t@.", "It's a recording of @t@.", "The audio suggests @t@.",
        "Based on the acoustic features, this is @t@.", "The audio is best described as @t@.",
        "In the audio, @t@ can be heard.", "The audio you provided depicts @t@.",
        "From the sound alone I recognise @t@.", "The dominant element is @t@.", "The evidence indicates @t@.",
        "the sound you are hearing is that of @t@",
    ],
    "chatty": [
        "Great question! The answer is @L@.", "Sure thing! It's @L@. Anything else?",
        "Of course! I'd say @T@. Let me know if you need more.",
        "Hi there! After listening to the clip, I'd answer @T@. \U0001f60a",
        "Thanks for sharing this audio. My answer is (@L@).", "Okay! So... @T@!", "Alright, here we go: @L@.",
        "Happy to help. @T@.", "Certainly. The answer is @T@. Would you like to know why?",
        "Hello! The answer: @T@. Have a nice day!", "Yes, sure: @L@.", "No problem! @T@ is the answer.",
        "Absolutely! It's @T@.",
    ],
    "other_language": [
        "La respuesta es @L@.", "Die richtige Antwort ist @L@.", "La r\xe9ponse est (@L@).",
        "\u7b54\u6848\u662f@L@\u3002", "\u6b63\u786e\u7b54\u6848\uff1a@L@", "\u7b54\u6848\uff1a@L@. @T@",
        "Antwort: @T@", "Respuesta correcta: @L@", "R\xe9ponse : @L@", "\u041e\u0442\u0432\u0435\u0442: @L@",
        "A resposta correta \xe9 @L@.", "La risposta \xe8 @T@.", "\uc815\ub2f5: @L@",
        "\u7b54\u3048\u306f@L@\u3067\u3059\u3002", "\u6211\u9009\u62e9@L@", "\u9009\u9879@L@",
        "\u5e94\u8be5\u9009(@L@)\u3002", "\u56e0\u6b64\uff0c\u7b54\u6848\u662f\uff08@L@\uff09@T@\u3002",
    ],
    "case_and_article": [
        "@TU@", "@TT@.", "@t@", "The @t@.", "a @t@", "It's the @t@.", "Answer: @TU@", "THE ANSWER IS @TU@.", "@Tn@",
        "answer is @t@.", "I think it's a @t@.", "The answer is the @t@.", "@TT@ (@L@)", "(@l@) @t@", "@L@) @TU@",
    ],
    "last_sentence": [
        "I listened twice. The tempo is steady and the dynamics are even. So, @T@.",
        "First there is a pause. Then something louder follows. @OT@ was my first idea. In the end @T@ "
        "matches.",
        "The background hints at @OT@. The foreground does not. I'd therefore say @T@.",
        "Several cues matter here. Timbre: bright. Attack: fast. Hence @L@.",
        "@OT@ seems plausible. @XT@ does too. But the best match is @T@.",
        "Listening to the clip, one notices a gradual change. This rules out @OT@. The change is typical "
        "of @T@.",
        "We compare loudness and pitch. Neither speaks for @OT@. Both speak for @T@.",
        "The clip starts with noise. Then we get the main event. That event is @t@.",
        "There are hints of @OT@, but these are faint. Ultimately, @T@ is the most fitting.",
    ],
    "either_or_resolved": [
        "It's either @OT@ or @T@; I'd go with @T@.", "Both @OT@ and @T@ are plausible, but @T@ is more so.",
        "Between @OT@ and @T@, @T@ is the better choice.", "@OT@ or @T@? I'd say @T@.",
        "Either (@OL@) or (@L@). Final: (@L@).", "Torn between @OT@ and @T@, I choose @T@.",
        "It could be @OT@ or @T@. Considering the rhythm, it is @T@.", "@OL@ or @L@... I'll say @L@.",
        "Whether it's @OT@ or @T@ is debatable; my answer is @T@.",
        "I was deciding between @OL@ and @L@ and ended up with @L@.",
        "Of the two candidates, @OT@ and @T@, the latter fits: @T@.",
    ],
    "colon_forms": [
        "Answer -> @L@", "Ans. @L@", "Final: @L@", "Selected option: @L@", "Prediction: @T@", "Result: @L@",
        "Verdict: @T@", "Chosen answer: @L@", "Correct answer \u2192 @L@", "ANSWER: (@l@)", "Answer:@L@",
        "answer is:@L@", "Your answer: @L@", "My choice: @T@", "Final answer (letter): @L@", "Answer (A-D): @L@",
        "Solution: @T@", "Best match: @T@", "Guess: @T@", "Key: @L@", "FINAL ANSWER = @L@",
        "Multiple choice answer: @L@", "The answer::: @L@", "Answer \u2014 @T@",
    ],
    "it_is_right": [
        "@L@ is chosen.", "@T@ was selected as the answer.", "Option @L@ has been selected.", "@L@ it is.",
        "@T@ would be my answer.", "@T@ gets my vote.", "@T@ is what I hear.", "(@L@) is the one.",
        "@L@ is the best choice.", "@L@ seems right.", "@T@ makes the most sense.", "@L@ stands out as correct.",
        "@T@ sounds right to me.", "@T@ is my final answer.", "@L@ should be correct.",
        "Option @L@ is the most accurate.", "@T@ is accurate; @OT@ is not.", "@L@ looks best.",
        "@T@ appears to be the right one.", "@L@ is true.",
    ],
    "label_and_text": [
        "@T@ \u2013 @L@", "@T@ [@L@]", "(@L@) - @T@", "@L@ = @T@", "@L@ \u2192 @T@", "@L@\t@T@", "@T@, option @L@",
        "@T@, i.e. @L@", "Answer @L@ (\u201c@T@\u201d)", "@L@, @T@", "@L@/ @T@", "Option @L@ \u2014 @T@",
        "[@L@] - @T@", "@L@; @T@", "@L@ . @T@", "@L@)@T@", "@L@.@T@", "(@L@)@T@", "Choice @L@, \u201c@T@\u201d",
        '@L@ - "@T@"',
    ],
    "conclusion": [
        "Thus @L@.", "Therefore: @L@", "So, @L@", "\u2234 @L@", "In summary, @T@.", "To conclude, it's @T@.",
        "Conclusion: option @L@", "Overall, @T@ fits best.", "Hence the answer, @L@.",
        "Consequently, @T@ is correct.", "All in all, I'd say @T@.", "Taken together, this points to @T@.",
        "Which means @L@.", "It follows that the answer is @L@.", "Accordingly, (@L@).", "For these reasons, @T@.",
        "This makes @T@ the correct answer.", "This makes @L@ the best choice.", "That is why I pick @T@.",
    ],
    "template_leftovers": [
        "@L@</s>", "<|assistant|>\n@L@", "ASSISTANT: @L@", "### Response:\n@L@", "[/INST] @L@", "@L@<end_of_turn>",
        "@T@<|endoftext|>", "<s> @L@. @T@ </s>", "model\n@L@",
        "<|start_header_id|>assistant<|end_header_id|>\n\n@T@<|eot_id|>", "assistant\n@L@", "AI: @T@",
        "<bos>@T@<eos>", "Assistant: The answer is @L@.", "### Answer: @L@. @T@", "Output: @L@", "<pad>@T@",
    ],
    "repetition": [
        "@L@ @L@ @L@", "@T@ @T@ @T@", "@L@, @L@.", "@L@\n@L@\n@L@", "@T@. @T@.", "@T@, @T@, @T@",
        "The answer is @L@. The answer is @L@.", "@L@. @L@. @L@.", "@L@. @T@\n@L@. @T@",
        "@T@\nAnswer: @L@\nAnswer: @L@",
    ],
    "wide_characters": [
        "\uff08@L@\uff09", "@L@\u3001@T@", "@L@\uff0e@T@", "Answer\uff1a@T@", "\u3010@L@\u3011", "@L@\u3002",
        "\u300e@T@\u300f", "\u201c@L@\u201d\u3002", "@L@\uff09@T@", "Answer\xa0: @L@", "\u200b@L@\u200b",
        "The\xa0answer\xa0is\xa0@T@.", "@T@\u3002",
    ],
    "html": [
        "<b>@L@</b>", "<p>The answer is <strong>@T@</strong>.</p>", "@L@<br>@T@", "<i>@T@</i>",
        "<h3>Answer</h3><p>@L@. @T@</p>", "<ul><li>@T@</li></ul>", "<span>@L@</span>", "&quot;@T@&quot;",
        "<div class='answer'>@T@</div>", "The answer is <u>@L@</u>.", "<code>@L@</code>", "<em>Answer:</em> @L@",
    ],
    "steps": [
        "Step 1: Listen for events.\nStep 2: Compare.\nStep 3: Decide.\n\n@L@",
        "1) The clip is short.\n2) It is noisy.\n3) Therefore @T@.",
        "Step 1: @OT@ is absent.\nStep 2: @T@ is present.\nAnswer: @L@",
        "First, I hear an onset. Second, a decay. Third, silence. This is @T@.",
        "Reasoning: the level rises.\nConclusion: @T@.",
        "Observation: a sharp attack.\nInference: not @OT@.\nDecision: @L@",
        "(1) Check @OT@: fails. (2) Check @T@: passes. Final answer: @T@",
        "Analysis:\n- pitch is low\n- tempo is slow\n\nResult: @T@",
        "Evidence for @OT@: none.\nEvidence for @T@: strong.\nChoice: @T@",
        "Premise: the sound is loud. Premise: it repeats. So: @L@.",
    ],
    "rhetorical": [
        "Could it be @OT@? Unlikely. Could it be @T@? Yes.", "Is it @OT@? No. Is it @T@? Yes, it is.",
        "What is it? @T@.", "Which one is right? @L@, of course.", "So which is it? It's @T@.",
        "@OT@? I don't think so. @T@ is far more likely.", "Why @T@? Because the attack is sharp.",
        "The question is: @OT@ or @T@? The answer: @T@.", "Is there @OT@? I hear none. There is @T@.",
        "You may wonder: why not @OT@? Because it would be louder. So @T@.", "Might this be @OT@? No: @T@.",
    ],
    "other_letters_dismissed": [
        "The others (@OL@ and @XL@) are wrong; @L@ is right.", "Options @OL@ and @XL@ can be dismissed, so @L@.",
        "@OL@ and @XL@ are incorrect, therefore @L@.", "@L@, because @OL@ and @XL@ don't fit.",
        "Not @OL@, not @XL@: @L@.", "@OL@ is tempting, but @L@ is correct.", "I'd discard @OL@. I'd keep @L@.",
        "@OL@: no. @XL@: no. @L@: yes.", "@L@ > @OL@", "@L@ is right while @OL@ is wrong.",
        "It's not @OL@ because of the pitch. It's @L@.", "@OL@ contradicts the audio, @L@ does not.",
        "We can cross out @OL@ and @XL@. The answer is @L@.",
    ],
    "concession": [
        "Although @OT@ is possible, @T@ fits better.", "Even though @OT@ is mentioned, the answer is @T@.",
        "Despite hints of @OT@, it is @T@.", "@OT@ comes close, yet @T@ is the one.",
        "Granted, @OT@ is common, but here we hear @T@.", "While one could say @OT@, I'd argue it's @T@.",
        "It sounds a bit like @OT@, but it is actually @T@.", "One may expect @OT@; instead there is @T@.",
        "At first glance @OT@, but in fact @T@.", "Some would say @OT@. I say @T@.",
        "@OT@ might be what others choose, but I'd go for @T@.", "Though similar to @OT@, this is clearly @T@.",
        "The beginning sounds like @OT@. However, it turns out to be @T@.", "It seems like @OT@ but it's really @T@.",
    ],
    "reported": [
        "A careful listener would say @T@.", "Experts would choose @T@.", "Most people would answer @L@.",
        "The expected answer is @T@.", "The intended answer is probably @L@.",
        "The audio leads me to believe that @T@ is correct.", "My analysis says @L@.",
        "The transcription points to @T@.", "What the recording shows is @T@.", "Everything points to @T@.",
        "All signs point to (@L@).", "The spectrogram confirms @T@.", "My ears tell me @T@.",
        "The evidence favors @T@.", "The cues support option @L@.",
    ],
    "code": [
        "answer = '@L@'", "print('@L@')", 'return "@L@"', "```\n@L@\n```", 'final_answer("@T@")', "`Answer: @L@`",
        "answer=@L@;", "```text\n@T@\n```", "answer: @L@ # best match", "ANSWER=@L@", "choice := @L@", "select(@L@)",
        '```python\nanswer = "@T@"\n```',
    ],
    "letter_then_reason": [
        "@L@, since the sound is clear.", "@L@ as it fits the tempo.", "@L@ given the timbre.",
        "@L@! The clip leaves no doubt.", "@L@ - because it repeats.", "@L@: the attack is sharp.",
        "@L@. This is because the sound repeats.", "@L@ \u2014 a clear match.", "@L@ due to the steady rhythm.",
        "@L@, as the recording makes clear.", "@L@ (based on the timbre)", "@L@; it matches what is heard.",
        "@L@ fits best because of its timbre.", "@L@ based on the pitch contour.", "@L@. I hear a steady tone.",
        "@L@ for the following reason: it repeats.",
    ],
    "question_restated": [
        "The correct description of what happens in this recording is @T@.", "The thing being asked about is @T@.",
        "The most likely source of the sound heard in the audio is @T@.",
        "What is described in the question corresponds to @T@.",
        "The phrase that best completes the statement is @T@.", "The one that matches the audio is @T@.",
        "The question asks for the best match, which is @T@.", "The best way to describe this audio is: @T@.",
        "In response to your question: @T@.", "To answer the question, it is @T@.",
        "Regarding the question which one it is, I believe @T@ is it.", "Q: which one is it? A: @T@",
        "For this clip I'd say it's @T@.", "The sound is best categorised as @T@.",
        "The audio clip would be classified as @T@.",
    ],
}  # fmt: skip

# Written after the parser had been changed for all of the above, and read by it once before anything was mended.
LATER_FAMILIES: dict[str, list[str]] = {
    "later_short": [
        "@L@ is it", "it's @l@", "def @T@", "@T@ imo", "gotta be @T@", "@L@ for sure", "100% @T@", "Yep, @T@.",
        "@L@ obviously", "ans: @l@", "Option @L@ obviously", "clearly @L@", "ok @L@", "@L@, final answer.",
        "Final: (@L@) @T@",
    ],
    "later_formal": [
        "Having examined the recording, I am of the opinion that the correct response is @L@.",
        "The recording is consistent solely with @T@.",
        "In light of the acoustic evidence, @T@ must be regarded as the right option.",
        "Upon review, option @L@ (@T@) is supported by the audio.", "The most defensible choice is @T@.",
        "The data support @T@ and contradict @OT@.", "It is reasonable to conclude that the clip portrays @t@.",
        "Of all candidates, @T@ has the strongest support.", "The response that aligns with the audio is choice @L@.",
        "We therefore settle for @L@.",
    ],
    "later_long": [
        "The audio opens with a short pause before the main event. I paid attention to timbre and timing. "
        "There is some resemblance to @OT@, yet the envelope differs. Taking everything into account, I am "
        "going with @T@.",
        "**Analysis**\n\n- Timbre: bright\n- Rhythm: regular\n- @OT@: would show a slower "
        "attack\n\n**Conclusion**\n\n@L@. @T@",
        "Let me break this down.\n\n1. **@OT@** \u2013 not supported by what is heard.\n2. **@XT@** \u2013 "
        "not supported either.\n3. **@T@** \u2013 well supported.\n\nSo the best answer is **@T@**.",
        "User wants one letter. The clip is noisy. Not @OL@. I'd output @L@.\n\n@L@",
        "To decide, I looked at each option in turn. Option @OL@ is about @OT@, for which I found no "
        "evidence. Option @L@ is about @T@, which is audible from the start. My answer is therefore option "
        "@L@.",
        "I first want to note that the clip is short. That said, @T@ is quite evident. @OT@, on the other "
        "hand, is not.",
        "The recording has two parts. The first might remind you of @OT@. The second makes it plain that "
        "we hear @T@.",
    ],
    "later_contrast": [
        "@T@ instead of @OT@", "@T@, as opposed to @OT@ or @XT@.", "This has nothing to do with @OT@; it is @T@.",
        "You might think @OT@, but no: @T@.", "It's @T@. It's not @OT@. It's not @XT@.",
        "@OT@ would be too loud; @T@ is just right.", "As for @OT@, no. As for @T@, yes.",
        "Were it @OT@, we would hear more bass. So it must be @T@.", "@T@ > @OT@", "@L@ (not @OL@)",
        "Many would pick @OL@ here, but the answer is @L@.", "Never @OT@. Always @T@.",
        "@OT@ is wrong, @XT@ is wrong, @T@ is right.",
    ],
    "later_wrapped": [
        "```\nAnswer: @L@\n```", "<answer>Option @L@: @T@</answer>", "\\boxed{\\text{The answer is } @L@}",
        '{"answer": "@L@)"}', '{"final_answer": {"option": "@L@"}}', "Answer: \u201c@L@) @T@\u201d",
        "**@L@** \u2014 @T@.", "Answer:\n- @L@. @T@", "Answer: [@L@]", "<think>ok @OL@? no @L@</think> **@L@**",
        "The answer is:\n\n> @T@", "Final Answer: \\(\\boxed{@L@}\\)",
        "| Question | Answer |\n|---|---|\n| 1 | @L@ |",
    ],
    # Measured once before anything was changed for them: 99.8 % right, 0.01 % wrong over all questions.
    "later_chat": [
        "**Answer:** **@L@. @T@**\n\nThe spectral content and temporal pattern point to this.",
        "At first I considered @OT@, since the beginning is ambiguous. However, the rest of the recording makes it "
        "clear that this is not the case. Therefore, the correct answer is @T@.",
        "I would say \u201c@T@\u201d.",
        "@L@) @T@. The other options (@OT@, @XT@) do not match what is heard in the clip.",
        "It isn't @OT@, and it doesn't sound like @XT@ either. I'd go with @T@.",
        "The question offers these choices:\n@ALL@\n\nBased on the audio, I choose @L@.",
        "- **@OT@**: no evidence of this in the recording \u274c\n- **@T@**: this fits the audio best \u2705\n\n"
        "### Final answer\n@T@",
        "@T@ is correct because the audio supports it, whereas @OT@ would require cues that are absent.",
        "<think>Could be @OL@. Hmm, wait, no.</think>\n$\\boxed{\\text{@L@}}$",
        "Given the acoustic characteristics, the most likely option is option @L@: @Tn@, although @OT@ is a close "
        "second.",
        "Option @OL@ can be ruled out. Option @XL@ can be ruled out. That leaves option @L@.",
        "I'm torn between @OL@ and @L@, but I lean towards @L@.",
        "Based on the audio, the answer is *@T@*, as far as I can tell.",
        "Sure! From what I hear, it's @T@. Let me know if you'd like more detail!",
    ],
}  # fmt: skip

# Answers that pick nothing, or nothing single: no choice may be read into them.
NO_CHOICE: dict[str, list[str]] = {
    "refused": [
        "I'm unable to listen to the recording.", "I can't process audio files.", "Audio input is not supported.",
        "I have no way of hearing this.", "Sorry, I cannot help with that.", "The audio is too noisy to tell.",
        "There isn't enough information to choose.", "I couldn't identify the sound.",
        "I do not hear anything that lets me decide between @T@ and @OT@.", "Unfortunately, no audio was attached.",
        "Could you resend the clip?", "As a language model, I don't have ears, so I can't say whether it is @T@.",
        "I won't guess.", "No comment.", "It's anyone's guess.",
        "The audio file appears to be empty, so I can't say if it's @T@ or @OT@.",
    ],
    "none_fits": [
        "None of the options.", "None apply.", "No option is right.", "The right answer isn't listed.",
        "It's something else entirely.", "None of these.", "Not listed.",
        "The correct answer is not among the options.", "None of A, B, C or D.",
        "I don't think any of these are correct.", "The answer is none of these options.",
        "Something other than @T@ or @OT@.", "Neither @L@ nor @OL@ is correct.", "No match.",
        "None of the choices match: not @T@, not @OT@.",
    ],
    "several": [
        "@L@ or @OL@", "@L@ and @OL@", "Both @L@ and @OL@ are correct.", "@L@, @OL@", "@T@ or @OT@",
        "Either @T@ or @OT@.", "It could be @T@ or it could be @OT@.", "@T@ and @OT@", "@L@/@OL@", "@L@ & @OL@",
        "(@L@) and (@OL@)", "All of them.", "The answer is @L@ or @OL@.", "The answer could be either @T@ or @OT@.",
        "@T@ / @OT@", "Answer: @L@ and @OL@", "Options @L@, @OL@ and @XL@", "Possibly @T@, possibly @OT@.",
        "Both @T@ and @OT@ can be heard.", "50% @T@, 50% @OT@.", "\\boxed{@L@ \\text{ or } @OL@}",
        "<answer>@L@ or @OL@</answer>", '{"answer": ["@L@", "@OL@"]}',
    ],
    "only_denied": [
        "It's definitely not @T@.", "I don't hear @T@.", "There is no @t@.", "@T@ can be ruled out.", "Not (@L@).",
        "@L@ is wrong.", "Anything but @T@.", "I doubt that it is @T@.", "@T@ is unlikely.",
        "It doesn't sound like @T@ or @OT@.", "The answer cannot be @L@.", "@T@? No.", "I wouldn't pick @L@.",
        "Option @L@ is incorrect.",
    ],
    "only_asked": [
        "Is it @T@?", "Do you mean @T@?", "Is the answer @L@ or @OL@?", "Are you asking whether it is @T@?",
        "Would you like me to choose @L@?", "@T@ or @OT@?", "Which one, @L@ or @OL@?",
        "Shall I compare @T@ with @OT@?",
    ],
    "cut_off": [
        "<think>Let me think. The answer may be @T@", "<think>@L@", "The answer is", "Answer:",
        "Let me consider @T@ first. Next, consider @OT@. And then", "The options are @INLINE@.", "@ALL@",
        "Let's compare @T@ and @OT@.",
    ],
}  # fmt: skip

_BY_HASH = sorted(FAMILIES, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
HELD_OUT = frozenset(_BY_HASH[: len(_BY_HASH) // 2])
_NONE_BY_HASH = sorted(NO_CHOICE, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
NO_CHOICE_HELD_OUT = frozenset(_NONE_BY_HASH[: len(_NONE_BY_HASH) // 2])

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
Question = tuple[Sequence[str], str]


def fill(template: str, order: Sequence[int], choices: Sequence[str]) -> str:
    """A phrasing with the choices of a question; `order` is the one given, another and a third."""
    lines = [f"{letter}. {text}" for letter, text in zip(string.ascii_uppercase, choices, strict=False)]
    values = {"ALL": "\n".join(lines), "INLINE": ", ".join(lines)}
    for prefix, index in zip(("", "O", "X"), order, strict=False):
        values[prefix + "L"] = string.ascii_uppercase[index]
        values[prefix + "T"] = choices[index]
    text, at = choices[order[0]], order[0]
    values |= {"l": string.ascii_lowercase[at], "t": text[0].lower() + text[1:], "TU": text.upper()}
    values |= {"TT": text.title(), "Tn": text.rstrip("."), "ORD": _ORDINALS[at], "NUM": str(at + 1)}
    for key, value in values.items():
        template = template.replace(f"@{key}@", json.dumps(value)[1:-1] if '{"' in template else value)
    return template


def read(template: str, questions: Sequence[Question], expected: bool = True) -> tuple[int, int, int, list]:
    """Count right, wrong and missing readings, and list failures; unless `expected`, a phrasing must give nothing."""
    counts, failures = [0, 0, 0], []
    for number, (choices, answer) in enumerate(questions):
        if len(set(choices)) < 3 or len(choices) > len(_ORDINALS):
            continue
        # Ask for right and wrong answers in turn: the parser does not know which choice is right.
        pick = choices.index(answer) if number % 2 else number % len(choices)
        order = [pick, *(i for i in range(len(choices)) if choices[i] != choices[pick])]
        order[1:] = order[1 + number % 2 :] + order[1 : 1 + number % 2]
        said = fill(template, order, choices)
        got = parse_choice(said, choices)
        wanted = expected and got is not None and choices[got] == choices[pick]
        kind = (0 if wanted else 2 if got is None else 1) if expected else (0 if got is None else 1)
        counts[kind] += 1
        if kind:
            failures.append((said, list(choices), got))
    return counts[0], counts[1], counts[2], failures


def measure(
    families: dict[str, list[str]], questions: Sequence[Question], every: int = 1, expected: bool = True
) -> dict[str, list[tuple[str, int, int, int, list]]]:
    """Per family and phrasing the counts right, wrong and unparsed, each phrasing over one question in `every`."""
    found: dict[str, list[tuple[str, int, int, int, list]]] = {}
    number = 0
    for name, templates in families.items():
        for template in templates:
            found.setdefault(name, []).append(
                (template, *read(template, questions[number % every :: every], expected))
            )
            number += 1
    return found


def totals(results: dict[str, list[tuple[str, int, int, int, list]]]) -> tuple[float, float, float]:
    """Shares right, wrong and unparsed over all phrasings."""
    sums = [sum(row[i] for rows in results.values() for row in rows) for i in (1, 2, 3)]
    return sums[0] / sum(sums), sums[1] / sum(sums), sums[2] / sum(sums)


def table(results: dict[str, list[tuple[str, int, int, int, list]]]) -> str:
    """The shares per family, in percent."""
    rows = [f"{'family':26s} {'right':>7s} {'wrong':>7s} {'unread':>7s}"]
    for name, found in [*results.items(), ("all", [row for rows in results.values() for row in rows])]:
        shares = totals({name: found})
        rows.append(f"{name:26s} " + " ".join(f"{100 * share:7.2f}" for share in shares))
    return "\n".join(rows)


def _main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        questions = [(item["choices"], item["answer"]) for item in json.load(file)]
    part = sys.argv[2] if len(sys.argv) > 2 else "all"
    parts = {
        "dev": (FAMILIES, True),
        "held": (FAMILIES, True),
        "later": (LATER_FAMILIES, True),
        "none": (NO_CHOICE, False),
    }
    for label, (families, expected) in parts.items():
        held = NO_CHOICE_HELD_OUT if label == "none" else HELD_OUT
        chosen = {
            name: given
            for name, given in families.items()
            if label not in ("dev", "held") or (name in held) == (label == "held")
        }
        if part not in ("all", label):
            continue
        results = measure(chosen, questions, every=60, expected=expected)
        print(table(results))
        if "-v" in sys.argv:
            for name, rows in results.items():
                for template, right, wrong, unread, failures in rows:
                    if failures:
                        print(
                            f"{name}: {template!r} {right}/{wrong}/{unread}",
                            *map(repr, failures[:2]),
                            sep="\n    ",
                        )


if __name__ == "__main__":
    _main()
