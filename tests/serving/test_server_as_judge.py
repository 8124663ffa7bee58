"""Our own server as a judge of answers."""

from owl_jax.evaluation.benchmark import Item, JudgeCall
from owl_jax.evaluation.benchmarks.jsonl import Jsonl
from owl_jax.evaluation.judge import Judge, make_server


def test_our_server_judges(serve, tmp_path):
    served = serve("Correct", keys=("key",), row_length=2048)
    key = tmp_path / "key"
    key.write_text("key\n")
    items = [
        Item(str(number), "What is it?", fields={"score": "judged", "answers": ("an owl",)})
        for number in range(3)
    ]
    answers = {"0": "an owl", "1": "a bird", "2": ""}
    server = make_server(f"{served.url}/v1", "tiny", key)
    with Judge(server, tmp_path / "replies.jsonl") as judge:
        verdicts = Jsonl().judge(items, answers, judge.ask)
        assert [verdict.score for verdict in verdicts] == [1.0, 1.0, 1.0]
        assert judge.agreement(Jsonl(), items, answers).equal_scores == 1.0
        assert judge.ask([JudgeCall("3", "Well?", system="Be fair.")]) == ["Correct"]
