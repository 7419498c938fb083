"""push_to_hub.py against a Hub on this machine: what is sent, what is not, and what is said when it fails."""

import json
import re
import shutil
import socket
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_lfm import LfmForMultimodalClassification, LfmProcessor
from modeling_lfm.scripts import push_to_hub
from modeling_lfm.scripts.common.console import run

from .hub_stub import READ_TOKEN, TOKEN, serving_hub
from .servers import CUT

SETTINGS = {"config.json", "processor_config.json"}
RESULTS = {"all_results.json", "eval_results.json", "test_results.json", "train_results.json"}
RECORDS = {"lfm_run.json", "trainer_state.json"}
PAGE = {"README.md", "accuracy.png", "alpha.png", "gap.png"}
SAMPLE = {"image": np.arange(256, dtype="uint8").reshape(16, 16)}  # what reads sound takes seconds to import


def code_of(folder):
    return {file.name for file in folder.glob("*.py")}


@pytest.fixture
def checkpoint(trained, tmp_path):
    """A copy of the run, with much that is for nobody else beside the model."""
    folder = tmp_path / "outputs" / "tiny"
    shutil.copytree(trained, folder)
    assert (folder / "training_args.bin").is_file()
    assert (next(folder.glob("checkpoint-*")) / "optimizer.pt").is_file()
    secret = f'TOKEN = "{TOKEN}"\nDATA = "/home/me/data"\n'
    for name in (
        ".env",
        "notes.txt",
        "train.py",
        "my.log",
        "runs/events.out.tfevents.1",
        "data/train.parquet",
        "log.json",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(secret)
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    shutil.copy(folder / "alpha.png", folder / "face.png")
    (tmp_path / "secret.json").write_text("{}")
    (folder / "special_tokens.json").symlink_to(tmp_path / "secret.json")
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    pause = SimpleNamespace(sleep=lambda seconds: None, time=time.time)  # between one try and the next
    monkeypatch.setattr("huggingface_hub.utils._http.time", pause)
    with serving_hub(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def push(checkpoint, *words, repo="me/tiny"):
    push_to_hub.main(["--checkpoint", str(checkpoint), "--repo_id", repo, *words])


def fails(capsys, checkpoint, *words, repo="me/tiny"):
    """The error (`str`) with which the program ends."""
    with pytest.raises(SystemExit) as stopped:
        run(lambda: push(checkpoint, *words, repo=repo))
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    return printed[printed.index("error: ") :]


def answer(folder):
    """The weights of a model, and what it says of a picture."""
    model, processor = LfmForMultimodalClassification.from_pretrained(folder), LfmProcessor.from_pretrained(folder)
    with torch.no_grad():
        return {**model.state_dict(), "logits": model.eval()(**processor(**SAMPLE)).logits}


def test_a_run_is_sent_in_one_commit_with_its_code(checkpoint, tmp_path, hub, capfd):
    """And so is an older checkpoint, which has no code and no card: what arrives is the same."""
    old = tmp_path / "old"
    shutil.copytree(checkpoint, old)
    for file in (*old.glob("*.py"), *old.glob("*.png"), old / "README.md"):
        file.unlink()
    for name in SETTINGS:
        settings = json.loads((old / name).read_text())
        settings.pop("auto_map")
        (old / name).write_text(json.dumps(settings))
    push(checkpoint, "--private", "--license", "mit")
    told = capfd.readouterr()
    assert told.err == ""
    push(old, repo="lab/old")
    first, second = hub.pushed
    wanted = {"model.safetensors"} | SETTINGS | RESULTS | RECORDS | PAGE | (code_of(checkpoint) - {"train.py"})
    assert {"modeling_lfm.py", "configuration_lfm.py", "processing_lfm.py"} < wanted
    assert first["repo"] == "me/tiny"
    assert first["message"] == "Upload model"
    assert first["added"] == second["added"] == set(hub.files("me/tiny")) == wanted
    assert first["large"] == {"model.safetensors"} | {name for name in PAGE if name.endswith(".png")}
    assert hub.private == {"me/tiny": True, "lab/old": False}
    for name in wanted - RECORDS - PAGE:
        assert hub.files("me/tiny")[name] == (checkpoint / name).read_bytes()
    for name in code_of(checkpoint) - {"train.py"}:
        assert hub.files("lab/old")[name] == hub.files("me/tiny")[name]
    for name in SETTINGS:
        loads = [json.loads(hub.files(repo)[name])["auto_map"] for repo in ("me/tiny", "lab/old")]
        assert loads[0] == loads[1]
    for repo, name in (("me/tiny", "tiny"), ("lab/old", "old")):
        card = hub.files(repo)["README.md"].decode()
        assert f'"{repo}"' in card
        assert f"\n# {name}\n" in card
    assert "license: mit\n" in hub.files("me/tiny")["README.md"].decode()
    assert str(tmp_path).encode() not in b"".join(hub.files("me/tiny").values())
    state = json.loads(hub.files("me/tiny")["trainer_state.json"])
    assert state["log_history"] == json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    assert f"sent {len(wanted)} files" in told.out
    commit = hub.refs["me/tiny", "main"]
    assert f"{hub.url}/me/tiny/commit/{commit}" in told.out
    assert 'model = AutoModel.from_pretrained("me/tiny", trust_remote_code=True)' in told.out


def test_a_dry_run_shows_what_would_be_sent_and_asks_nobody(checkpoint, hub, capsys, monkeypatch):
    push(checkpoint, "--private")
    capsys.readouterr()

    def connect(*args):
        raise AssertionError("a connection was made")

    with monkeypatch.context() as apart:
        apart.setattr(socket.socket, "connect", connect)
        apart.delenv("HF_TOKEN")
        apart.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(checkpoint / "none"))
        before = sorted(path.name for path in checkpoint.rglob("*"))
        push(checkpoint, "--private", "--dry_run", "--commit_message", "Better")
        assert before == sorted(path.name for path in checkpoint.rglob("*"))
    head, *lines, left = capsys.readouterr().out.splitlines()
    assert head == "would be sent to me/tiny (private, if it is new), branch main, in one commit, 'Better':"
    shown = {name: size for size, _, name in (line.split() for line in lines)}
    assert shown == {name: f"{len(data):,}" for name, data in hub.files("me/tiny").items()}
    checkpoints = ", ".join(f"{folder.name}/" for folder in sorted(checkpoint.glob("checkpoint-*")))
    assert left == (
        f"stays here: .env, {checkpoints}, data/, face.png, log.json, my.log, notes.txt, pytorch_model.bin, runs/, "
        "special_tokens.json, train.py, training_args.bin"
    )


def test_an_update_sends_what_changed_and_removes_old_weights(checkpoint, hub, capsys, tmp_path):
    own = {"README__md": b"---\nlicense: mit\n---\n# By hand\n", "sample__wav": b"RIFF"}
    hub.add("me/tiny", private=True, **own, **{"model-00001-of-00009__safetensors": b"old"})
    push(checkpoint)
    printed = capsys.readouterr().out
    assert "me/tiny (private) exists: updating it\nits README.md was edited by hand and stays as it is\n" in printed
    assert hub.private["me/tiny"]
    files = hub.files("me/tiny")
    assert files["README.md"] == own["README__md"]
    assert files["sample.wav"] == b"RIFF"
    assert hub.pushed[0]["removed"] == ["model-00001-of-00009.safetensors"]
    push(checkpoint)
    assert "nothing was left to send" in capsys.readouterr().out
    assert len(hub.pushed) == 1

    model = LfmForMultimodalClassification.from_pretrained(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    model.save_pretrained(checkpoint, max_shard_size="30KB")
    shards = {file.name for file in checkpoint.glob("model-*.safetensors")}
    assert len(shards) > 1
    push(checkpoint)
    assert hub.pushed[1]["added"] - {"config.json"} == shards | {"model.safetensors.index.json"}
    assert hub.pushed[1]["removed"] == ["model.safetensors"]
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    for name, data in hub.files("me/tiny").items():
        (arrived / name).write_bytes(data)
    sent, here = answer(arrived), answer(checkpoint)
    assert sent.keys() == here.keys()
    assert all(torch.equal(sent[key], here[key]) for key in sent)


def test_large_files_go_in_parts_and_what_arrived_is_not_sent_again(checkpoint, hub, capsys, monkeypatch):
    monkeypatch.setattr("tests.scripts.hub_stub.PART", 20_000)
    hub.fault = lambda method, path: CUT if re.fullmatch(r"/blobs/\w+/2", path) else None
    message = fails(capsys, checkpoint)
    assert "what was uploaded is not sent twice" in message
    assert hub.pushed == []
    arrived = set(hub.blobs)
    hub.fault = lambda method, path: CUT if "/commit/" in path else None
    message = fails(capsys, checkpoint)
    assert "a commit arrives whole or not at all" in message
    assert hub.pushed == []
    assert set(hub.blobs) > arrived
    hub.fault = lambda method, path: None
    hub.requests.clear()
    push(checkpoint)
    assert len(hub.pushed) == 1
    assert not any(request.startswith("PUT") for request in hub.requests)
    assert hub.files("me/tiny")["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()


def test_a_branch_and_a_pull_request(checkpoint, hub, capsys):
    push(checkpoint, "--revision", "longer")
    assert 'from_pretrained("me/tiny", revision="longer", trust_remote_code=True)' in capsys.readouterr().out
    assert hub.files("me/tiny") == {}
    assert "model.safetensors" in hub.files("me/tiny", "longer")
    hub.add("their/tiny")
    push(checkpoint, "--create_pr", "--commit_message", "Mine is better", repo="their/tiny")
    printed = capsys.readouterr().out
    assert f"{hub.url}/their/tiny/discussions/1" in printed
    assert 'revision="refs/pr/1"' in printed
    assert hub.files("their/tiny") == {}
    assert "model.safetensors" in hub.files("their/tiny", "refs/pr/1")
    assert hub.pushed[1]["message"] == "Mine is better"
    message = fails(capsys, checkpoint, "--create_pr", repo="their/other")
    assert "error: their/other on the Hub" in message
    assert "404" in message
    assert "leave --revision out" in fails(capsys, checkpoint, "--create_pr", "--revision", "longer")
    assert sum("repos/create" in request for request in hub.requests) == 1


def answering(status, part):
    return lambda method, path: (status, {}, b'{"error": "The Hub is tired."}') if part in path else None


@pytest.mark.parametrize(
    ("repo", "token", "fault", "message"),
    [
        ("me/tiny", None, None, "hf auth login"),
        ("me/tiny", "hf_wrong", None, "Invalid user token. The token from HF_TOKEN"),
        ("me/tiny", READ_TOKEN, None, "the token may only read"),
        ("their/tiny", TOKEN, None, "You don't have the rights to create a model under the namespace their"),
        ("me/taken", TOKEN, None, "You already created this model repo"),
        ("me/tiny", TOKEN, answering(500, "whoami"), "The Hub is tired"),
        ("me/tiny", TOKEN, answering(502, "/blobs/"), "502"),
        ("me/tiny", TOKEN, answering(429, "/commit/"), "429"),
        ("me/tiny", TOKEN, answering(412, "/commit/"), "The Hub is tired"),
        ("me/tiny", TOKEN, lambda method, path: CUT, "Server disconnected"),
    ],
)
def test_errors_of_the_hub_are_told(checkpoint, hub, capsys, monkeypatch, repo, token, fault, message):
    (checkpoint / "README.md").write_text("# Mine\n")  # or one would be written each time, with pictures
    hub.taken.add("me/taken")
    hub.fault = fault or hub.fault
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(checkpoint / "none"))
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    told = fails(capsys, checkpoint, repo=repo)
    assert message in told
    assert f"{repo} on the Hub ({hub.url})" in told
    assert token is None or token not in told
    assert hub.pushed == []
    assert hub.blobs == {} or "/commit/" in hub.requests[-1]


def test_a_public_repository_and_a_card_that_the_hub_refuses(checkpoint, hub, capsys):
    hub.add("me/open", README__md=b"# By hand")
    told = fails(capsys, checkpoint, "--private", repo="me/open")
    assert "me/open is public on the Hub" in told
    hub.fault = lambda method, path: CUT if "/resolve/" in path else None
    assert "me/open on the Hub" in fails(capsys, checkpoint, repo="me/open")  # or the card would be written over
    hub.fault = lambda method, path: None
    (checkpoint / "README.md").write_text("---\nlicense: nonsense\n---\n# Mine\n")
    assert '"license" must be one of [apache-2.0, ...]' in fails(capsys, checkpoint)
    assert hub.pushed == []
    assert hub.blobs == {}


def test_without_network(checkpoint, monkeypatch, capsys, hub):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    told = fails(capsys, checkpoint)
    assert address in told
    assert "refused" in told
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in fails(capsys, checkpoint)


def change(file, **entries):
    file.write_text(json.dumps(json.loads(file.read_text()) | entries, indent=2))


def test_private_content_stops_it(checkpoint, hub, capsys):
    change(checkpoint / "config.json", zzz_from="/home/somebody/models/minilm")
    change(checkpoint / "all_results.json", note=f"pushed with {TOKEN}")
    (checkpoint / "README.md").write_text(f"# Mine\n\nTrained in {checkpoint}.\n")
    told = fails(capsys, checkpoint)
    lines = len((checkpoint / "config.json").read_text().splitlines())
    assert f"config.json, line {lines - 1}: the path /home/somebody of this machine" in told
    assert re.search(r"all_results.json, line \d+: an access token of the Hub \(hf_www...\)", told)
    assert "README.md, line 3: the path {}{}/{}".format(*checkpoint.parts[:3]) in told
    assert TOKEN not in told
    assert hub.requests == []


def test_paths_in_the_records_of_a_run_are_cut_off(checkpoint, hub):
    change(checkpoint / "lfm_run.json", benchmark_options={"recordings": "/home/me/data/wav"})
    change(checkpoint / "trainer_state.json", best_model_checkpoint=str(checkpoint / "checkpoint-6"))
    push(checkpoint)
    files = hub.files("me/tiny")
    assert json.loads(files["lfm_run.json"])["benchmark_options"] == {"recordings": "wav"}
    assert json.loads(files["trainer_state.json"])["best_model_checkpoint"] == "checkpoint-6"


def test_a_card_of_ones_own_is_sent_with_its_pictures(checkpoint, hub, capsys):
    card = "---\nlicense: mit\n---\n# Mine\n![a face](face.png) <img src='images/b.png'> ![](https://x.org/c.png)\n"
    (checkpoint / "README.md").write_text(card)
    (checkpoint / "images").mkdir()
    assert "line 5: the picture images/b.png is not in the folder" in fails(capsys, checkpoint)
    shutil.copy(checkpoint / "gap.png", checkpoint / "images" / "b.png")
    assert "README.md is your own: write 'license: apache-2.0'" in fails(capsys, checkpoint, "--license", "apache-2.0")
    hub.add("me/tiny", README__md=b"# Older\n")
    push(checkpoint)
    files = hub.files("me/tiny")
    assert files["README.md"].decode() == card
    assert {name for name in files if name.endswith(".png")} == {"face.png", "images/b.png"}
    (checkpoint / "README.md").write_text("---\nlicense: [mit\n---\n")
    assert "metadata that are not YAML" in fails(capsys, checkpoint)


def test_weights_that_nobody_could_use_are_refused(checkpoint, capsys, hub):
    file = checkpoint / "model.safetensors"
    weights = load_file(file)
    name = "fusion.head.bias"
    for broken, message in [
        (weights | {name: weights[name] * torch.nan}, f"values that are not finite, such as those of {name}"),
        ({key: value for key, value in weights.items() if key != name}, name),
        (weights | {"more": torch.ones(2)}, "more"),
        (weights | {name: torch.ones(3)}, name),
    ]:
        save_file(broken, file, {"format": "pt"})
        assert message in fails(capsys, checkpoint)
    save_file(weights, file, {"format": "pt", "from": "/home/me/models"})
    assert "the metadata of" in fails(capsys, checkpoint)
    file.write_bytes(file.read_bytes()[:-100])
    assert f"the weights of {checkpoint} cannot be read" in fails(capsys, checkpoint)
    index, shard = checkpoint / "model.safetensors.index.json", "model-00001-of-00001.safetensors"
    save_file(weights, checkpoint / shard, {"format": "pt"})
    file.unlink()
    for damaged in ({"weight_map": dict.fromkeys(weights, "../secret.json")}, {"weight_map": ["a"]}, {}):
        index.write_text(json.dumps({"metadata": {}, **damaged}))
        assert f"the weights of {checkpoint} cannot be read" in fails(capsys, checkpoint)
    (checkpoint / shard).unlink()
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, shard)}))
    assert shard in fails(capsys, checkpoint)
    index.unlink()
    assert "pytorch_model.bin is pickled; save the model anew" in fails(capsys, checkpoint)
    (checkpoint / "pytorch_model.bin").unlink()
    assert "holds no weights" in fails(capsys, checkpoint)
    assert hub.requests == []


def test_wrong_arguments(checkpoint, capsys, tmp_path, hub):
    assert "should be USER/NAME, such as me/tiny" in fails(capsys, checkpoint, repo="tiny")
    assert "cannot be a name on the Hub" in fails(capsys, checkpoint, repo="me/ti--ny")
    assert "commit_message is empty" in fails(capsys, checkpoint, "--commit_message", " ")
    assert "holds no model (no config.json)" in fails(capsys, tmp_path)
    assert "did you mean 'license'" in fails(capsys, checkpoint, "--licence", "mit")
    assert "is no identifier of the Hub" in fails(capsys, checkpoint, "--license", "My Licence")
    assert hub.requests == []


def test_other_models_and_other_processors(checkpoint, capsys, hub):
    change(checkpoint / "config.json", model_type="bert")
    assert "holds a model of type 'bert', not 'lfm_multimodal'" in fails(capsys, checkpoint)
    change(checkpoint / "config.json", model_type="lfm_multimodal")
    processor = json.loads((checkpoint / "processor_config.json").read_text())
    change(checkpoint / "processor_config.json", modalities={"image": processor["modalities"]["image"]})
    assert "does not know audio, which the model reads" in fails(capsys, checkpoint)
    (checkpoint / "processor_config.json").unlink()
    push(checkpoint, "--dry_run")
    printed = capsys.readouterr().out
    assert " modeling_lfm.py\n" in printed
    assert "processing_lfm.py" not in printed.partition("stays here")[0]
    (checkpoint / "config.json").write_text("{")
    assert "config.json is damaged (" in fails(capsys, checkpoint)
    assert hub.requests == []


def test_a_checkpoint_within_a_run(checkpoint, hub):
    """Its optimizer and random states lie right beside the weights; what was trained on what, in the run's folder."""
    folder = next(checkpoint.glob("checkpoint-*"))
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"} <= {f.name for f in folder.iterdir()}
    push(folder)
    sent = hub.files("me/tiny")
    assert {"model.safetensors", "lfm_run.json", "README.md"} | SETTINGS < set(sent)
    assert {name.rpartition(".")[2] for name in sent} == {"safetensors", "json", "md", "py", "png"}
    assert json.loads(sent["lfm_run.json"])["benchmark"] == "demo"
