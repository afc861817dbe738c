"""Where data lies besides local folders: the cache folder, and remote storage (`s3://`, `gs://`, `hf://`)."""
