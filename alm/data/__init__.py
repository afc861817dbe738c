"""Generated and recorded sound scenes with captions and questions."""
