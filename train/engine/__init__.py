"""The one training loop (`transformers.Trainer`), checkpoints, processes, signals and logs. Independent of stages."""
