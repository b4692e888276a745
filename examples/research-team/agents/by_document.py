from typing import Any

from worker.agent import BaseAgent, Context


class ByDocument(BaseAgent):
    """Sort the passages that several searches have found by the documents that they are from."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        by_source: dict[str, list[str]] = {}
        for found in data["after"].values():
            for passage in found["passages"]:
                texts = by_source.setdefault(passage["source"], [])
                if passage["text"] not in texts:
                    texts.append(passage["text"])
        question = data["input"]["question"]
        return {
            "documents": [
                {"question": question, "source": source, "passages": texts} for source, texts in by_source.items()
            ]
        }
