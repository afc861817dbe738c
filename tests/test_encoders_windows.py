"""Clips longer than an encoder's window."""

import torch

from encoders import AudioMosaicEncoder


def test_the_rest_of_a_clip_weighs_as_much_as_it_is_long() -> None:
    encoder = AudioMosaicEncoder.tiny()  # windows of 64 frames of 10 ms
    per_window = 64
    samples = 240 + 160 * (per_window + 1)  # one frame more than a window
    generator = torch.Generator().manual_seed(0)
    loud = 0.3 * torch.randn(1, samples + 160 * (per_window - 1), generator=generator)

    def feature(n_samples: int) -> torch.Tensor:
        with torch.no_grad():
            return encoder(loud[:, :n_samples], torch.tensor([n_samples])).clip_features()

    one, longer, two = feature(samples - 160), feature(samples), feature(loud.shape[1])
    assert (two - one).abs().max() > 1e-3
    assert (longer - one).abs().max() < 0.05 * (one - feature(4000)).abs().max()
    with torch.no_grad():  # two full windows weigh the same
        second = loud[:, per_window * 160 :]
        rest = encoder(second, torch.tensor([second.shape[1]])).clip_features()
    torch.testing.assert_close(two, (one + rest) / 2)
