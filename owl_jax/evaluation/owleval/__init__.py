"""OwlEval beyond its questions: answers in the published form."""
