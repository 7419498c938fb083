"""What may leave of a model's folder."""

import json
import re

import pytest

from modeling_lfm.trainer.staging import list_code, list_other_files, list_pictures, list_weights


def write(folder, **files):
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content if isinstance(content, str) else json.dumps(content))


def test_code_is_what_the_settings_name_and_what_that_imports(tmp_path):
    write(
        tmp_path,
        config__json={
            "auto_map": {
                "AutoConfig": "a.C",
                "AutoModel": "b.M",
                "AutoTokenizer": ["t.T", None],
                "Auto": "me/x--far.F",
            },
            "custom_pipelines": {"task": {"impl": "p.P", "pt": ["AutoModel"]}},
        },
        processor_config__json={"auto_map": {"AutoProcessor": "b.P"}},
        a__py="",
        b__py="from .c import C\nimport os\n",
        c__py="from .d import D\n",
        d__py="",
        p__py="",
        t__py="",
        other__py="",
    )
    assert list_code(tmp_path) == ["a.py", "b.py", "c.py", "d.py", "p.py", "t.py"]
    assert {"a.py", "d.py"} < set(list_other_files(tmp_path))
    assert "other.py" not in list_other_files(tmp_path)
    (tmp_path / "d.py").unlink()
    assert list_code(tmp_path) == []
    write(tmp_path, config__json="[")
    with pytest.raises(ValueError, match=re.escape("config.json is damaged (")):
        list_code(tmp_path)


def test_nothing_but_what_belongs_to_a_model(tmp_path):
    sent = {"config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "processor_config.json"}
    of_the_run = {"all_results.json", "trainer_state.json", "lfm_run.json", "README.md"}
    stays = {"optimizer.pt", "training_args.bin", "method.pt", ".env", "other.json", "data.csv", "scaler.pt", "x.py"}
    for name in sent | of_the_run | stays:
        (tmp_path / name).write_text("{}")
    (tmp_path / "vocab.json").mkdir()
    assert set(list_other_files(tmp_path)) == sent | of_the_run
    assert set(list_other_files(tmp_path, run=False)) == sent


def test_links_that_lead_out(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    write(tmp_path, elsewhere__json="{}")
    write(folder, here__json="{}")
    (folder / "config.json").symlink_to("here.json")
    assert set(list_other_files(folder)) == {"config.json"}
    (folder / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ValueError, match=r"tokenizer\.json is a link that leads out of the folder"):
        list_other_files(folder)


def test_pictures_are_those_that_the_card_shows(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("one.png", "a/two.jpg", "three.png", ".four.png", "five.txt"):
        (tmp_path / name).write_text("")
    card = (
        "![one](one.png) ![again](./one.png)\n![](https://x.org/y.png)\n<img width=3 src='a/two.jpg'>\n[text](five.txt)"
    )
    write(tmp_path, README__md=card)
    assert list_pictures(tmp_path) == ["one.png", "a/two.jpg"]
    for link, message in [
        ("gone.png", "line 2: the picture gone.png is not in the folder"),
        ("../one.png", "line 2: the picture ../one.png is not in the folder"),
        (f"{tmp_path}/one.png", "is not in the folder"),
        (".four.png", "line 2: the picture .four.png is none of .png, .jpg"),
        ("five.txt", "line 2: the picture five.txt is none of"),
    ]:
        write(tmp_path, README__md=f"# Mine\n![x]({link})\n")
        with pytest.raises(ValueError, match=re.escape(message)):
            list_pictures(tmp_path)


def test_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        list_weights(tmp_path)
    index, shards = "model.safetensors.index.json", [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    (tmp_path / index).write_text(json.dumps({"weight_map": {"a": shards[1], "b": shards[0], "c": shards[0]}}))
    for shard in shards:
        (tmp_path / shard).write_text("")
    assert list(list_weights(tmp_path)) == [*shards, index]
    (tmp_path / "model.safetensors").write_text("")
    assert list(list_weights(tmp_path)) == ["model.safetensors"]
