"""The data plane: OpenAI-compatible calls, admitted, forwarded, metered and settled."""
