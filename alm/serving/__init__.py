"""Models behind an API: the plug-in for vLLM. What computes answers stays in `alm`; nothing here trains."""
