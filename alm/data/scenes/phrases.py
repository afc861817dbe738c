"""The wordings: questions, captions and descriptions, as templates.

In no template does a verb agree with a sound, so plurals ("sea waves") fit everywhere.
"""

NUMBER_WORDS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

SILENCE_WORDS = ("silence", "quiet", "background")
"""Words for a silent step of a timeline; each timeline uses one of them."""

WHAT_QUESTIONS = (
    "What is this sound?",
    "What sound is this?",
    "What can be heard?",
    "What do you hear?",
    "Which sound can be heard in this recording?",
    "Name the sound in this clip.",
    "What makes the sound in this recording?",
    "Identify the sound.",
)

COUNT_ALL_QUESTIONS = (
    "How many sounds are there?",
    "How many sounds can be heard?",
    "How many sounds do you hear in total?",
    "Count the sounds in this recording.",
    "What is the number of sounds?",
    "How many sound events does the clip contain?",
    "In total, how many sounds occur?",
    "How many separate sounds are in the recording?",
)

COUNT_KIND_QUESTIONS = (
    "How many times can {phrase} be heard?",
    "How many times do you hear {phrase}?",
    "How often can {phrase} be heard?",
    "Count how many times {phrase} can be heard.",
    "How often do you hear {phrase} in the recording?",
    "How many of the sounds are {phrase}?",
    "What is the number of times you hear {phrase}?",
    "How many times does the clip contain {phrase}?",
)

ORDER_QUESTIONS = {
    "first": (
        "Which sound is first?",
        "Which sound comes first?",
        "What is the first sound?",
        "What do you hear first?",
        "Name the first sound.",
        "What sound does the recording begin with?",
        "Which sound starts the clip?",
        "What can be heard at the beginning?",
    ),
    "second": (
        "Which sound is second?",
        "Which sound comes second?",
        "What is the second sound?",
        "What do you hear second?",
        "Name the second sound.",
        "What follows the first sound?",
        "Which sound comes right after the first one?",
        "Which is the second sound in the recording?",
    ),
    "last": (
        "Which sound is last?",
        "Which sound comes last?",
        "What is the last sound?",
        "What do you hear last?",
        "Name the last sound.",
        "What sound does the recording end with?",
        "Which sound ends the clip?",
        "What can be heard at the end?",
    ),
}

PRESENCE_QUESTIONS = (
    "Can you hear {phrase}?",
    "Can {phrase} be heard?",
    "Do you hear {phrase}?",
    "Does the clip contain {phrase}?",
    "Can one hear {phrase} in this clip?",
    "Does the recording contain {phrase}?",
    "Do the sounds include {phrase}?",
    "Is one of the sounds {phrase}?",
)

CHOICE_QUESTIONS = (
    "Which of these can be heard?",
    "Which of these sounds is in the recording?",
    "Which of the following do you hear?",
    "Which option names a sound in this clip?",
    "Choose the sound that occurs in the recording.",
    "Which of these sounds occurs?",
    "Pick the sound that can be heard.",
    "Which one of these is in the clip?",
)

CAPTION_TEMPLATES: dict[int, tuple[str, ...]] = {
    1: (
        "{0} can be heard.",
        "The only sound is {0}.",
        "One can hear {0}.",
        "The recording contains {0}.",
        "The sound of {0}.",
        "A clip with {0}.",
    ),
    2: (
        "{0} can be heard, then {1}.",
        "One hears {0} followed by {1}.",
        "First one hears {0}, then {1}.",
        "The recording begins with {0} and ends with {1}.",
        "Two sounds can be heard: {0} and {1}.",
        "After {0} one hears {1}.",
    ),
    3: (
        "{0} can be heard, then {1} and then {2}.",
        "One hears {0} followed by {1} and {2}.",
        "First one hears {0}, then {1} and finally {2}.",
        "The recording begins with {0}, goes on with {1} and ends with {2}.",
        "Three sounds can be heard: {0}, {1} and {2}.",
        "After {0} and {1} one hears {2}.",
    ),
    4: (
        "{then} can be heard.",
        "The sounds are, in order, {all}.",
        "{count} sounds can be heard: {all}.",
        "One hears {then}.",
        "The recording contains {all}, in this order.",
    ),
}
"""Number of sounds (largest key: also for more) → five or more templates, filled with the sounds in order."""

PROSE_TEMPLATES: dict[int, tuple[str, ...]] = {
    1: ("{0}.", "Only {0}.", "{0} and nothing else."),
    2: ("{0}, then {1}.", "{0}, {1}.", "First {0}, next {1}."),
    3: ("{0}, then {1}, then {2}.", "{0}, {1}, {2}.", "First {0}, next {1}, finally {2}."),
    4: ("{then}.", "In order: {all}."),
}
"""By number of sounds: descriptions in prose."""
