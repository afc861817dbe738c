"""AudioMosaic: the published config, the ViT encoder, and the heads of its model classes."""

from encoders.zoo.audiomosaic.model import AudioMosaicEncoder

ENCODER = AudioMosaicEncoder
