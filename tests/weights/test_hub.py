"""Weights by hub names, against a folder in the place of the cache and a server in the place of the hub."""

import base64
import json
import re
import shutil
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np
import pytest
import timm
import torch
from dlaseg_testing import TINY, TwoHeads
from huggingface_hub import HfApi, ModelCard, constants
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from dlaseg import (
    DLASeg,
    LabelMap,
    Predictor,
    UserError,
    create_backbone,
    create_model,
    load_model,
    push_to_hub,
    save_model,
    save_pretrained,
)
from dlaseg.metadata import Origin
from dlaseg.weights import download as hub
from dlaseg.weights.card import model_card
from dlaseg.weights.files import model_sha256

pytestmark = pytest.mark.usefixtures("tiny_variant")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as uploading and downloading small files takes."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.repositories.setdefault(name, {})
            self.answer({"url": f"{self.server.url}/{name}", "id": name})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self.answer({"files": files})
        elif found := re.match(r"/api/models/(.+)/commit/main", self.path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repositories[found[1]][line["value"]["path"]] = content
            url = f"{self.server.url}/{found[1]}/commit/{COMMIT}"
            self.answer({"commitUrl": url, "commitOid": COMMIT, "hookOutput": "", "success": True})
        else:
            self.answer({"error": self.path}, 404)

    def do_GET(self):
        self.server.asked.append((self.command, self.path))
        found = re.match(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        if not found or found[1] not in self.server.repositories:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif found[2] not in self.server.repositories[found[1]]:
            self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
        else:
            content = self.server.repositories[found[1]][found[2]]
            self.answer(content, ETag=f'"{len(content)}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET  # noqa: N815 - the server's own naming


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    return tmp_path / "cache"


@pytest.fixture
def fake_hub(cache, monkeypatch):
    """A hub on this machine, without repositories."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.repositories, server.asked = {}, []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def offline(cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory):
    torch.manual_seed(0)
    network = timm.create_model("dla46_c", num_classes=5).eval()
    path = tmp_path_factory.mktemp("timm") / "model.safetensors"
    save_file(network.state_dict(), path)
    return network, path


def fill(cache: Path, name: str, file: Path) -> None:
    """Puts a file where the hub's library keeps it."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / hub.FILE).symlink_to(file)


def same(one, other):
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(one.eval()(x), other.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "hf-hub:"])
def test_without_the_network_a_filled_cache_serves(offline, timm_file, prefix):
    network, path = timm_file
    fill(offline, "timm/dla46_c.in1k", path)
    same(create_backbone("dla46_c", 5, weights=f"{prefix}timm/dla46_c.in1k"), network)


def test_what_is_in_the_cache_is_not_asked_for(fake_hub, cache, timm_file):
    fill(cache, "timm/dla46_c.in1k", timm_file[1])
    create_backbone("dla46_c", weights="timm/dla46_c.in1k")
    assert fake_hub.asked == []


def test_without_network_and_cache_the_message_has_the_remedy(offline):
    with pytest.raises(UserError) as error:
        create_model(TINY, 19, backbone_weights="timm/dla34.in1k")
    message = str(error.value)
    assert "\n" not in message
    assert str(offline) in message
    assert f"download {constants.ENDPOINT}/timm/dla34.in1k/resolve/main/model.safetensors elsewhere" in message
    assert message.endswith("give its path as backbone_weights (--model.backbone_weights)")


def test_an_unreachable_hub_is_reported(cache, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # its pauses between tries
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/timm/dla34.in1k/resolve/main/model.safetensors elsewhere"):
        create_model(TINY, 19, backbone_weights="timm/dla34.in1k")


def test_a_client_that_old_releases_closed_is_reported(cache, monkeypatch):
    """Some releases of huggingface_hub 1 try again with a client that they closed."""

    def closed(*arguments, local_files_only=False, **options):
        raise LocalEntryNotFoundError("none") if local_files_only else RuntimeError("the client has been closed")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", closed)
    with pytest.raises(UserError, match=r"neither in the cache .* nor to be had from the hub"):
        create_model(TINY, 19, backbone_weights="timm/dla34.in1k")


def test_a_hub_name_is_downloaded_once(fake_hub, cache, timm_file):
    network, path = timm_file
    fake_hub.repositories["timm/dla46_c.in1k"] = {hub.FILE: path.read_bytes()}
    same(create_backbone("dla46_c", 5, weights="timm/dla46_c.in1k"), network)
    asked = len(fake_hub.asked)
    same(create_model("dla46_c", 3, 4, 1, backbone_weights="timm/dla46_c.in1k").backbone, create_backbone(
        "dla46_c", weights=path))  # fmt: skip
    assert len(fake_hub.asked) == asked > 0


def test_any_file_of_a_repository_is_downloaded_by_its_name(fake_hub, cache, timm_file):
    network, path = timm_file
    fake_hub.repositories["me/all"] = {"small/net.ckpt": path.read_bytes()}
    for revision in ("", "@main"):
        same(create_backbone("dla46_c", 5, weights=f"hf-hub:me/all/small/net.ckpt{revision}"), network)
    with pytest.raises(
        UserError, match=r"me/all: no such folder here, and other\.ckpt is neither in the cache .* download http"
    ):
        create_backbone(TINY, weights="hf-hub:me/all/other.ckpt")
    with pytest.raises(UserError, match="no such file"):
        create_backbone(TINY, weights="hf-hub:me/all/../x.ckpt")


def test_a_repository_that_does_not_exist_is_refused(fake_hub):
    with pytest.raises(UserError, match=r"timm/dla35\.in1k: no such folder here, and no repository .*timm/dla34\.in1k"):
        create_backbone(TINY, weights="timm/dla35.in1k")


def test_a_repository_without_weights_is_refused(fake_hub):
    fake_hub.repositories["me/empty"] = {}
    with pytest.raises(
        UserError, match=r"me/empty: no such folder here, and model\.safetensors is neither in the cache"
    ):
        create_backbone(TINY, weights="me/empty")


@pytest.mark.parametrize(
    "source", ["missing.pth", "runs/missing.safetensors", "a/b/c", "runs/model_best.pth.tar", "/no/such", "../x/y"]
)
def test_a_missing_file_is_no_hub_name(source, offline):
    with pytest.raises(UserError, match="no such file: name a"):
        create_backbone(TINY, weights=source)


@pytest.mark.parametrize("source", ["runs/typo", "runs/typo@main"])
def test_a_name_below_a_folder_that_exists_is_a_path_and_nothing_is_asked_for(source, fake_hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    with pytest.raises(UserError) as error:
        load_model(source)
    assert str(error.value) == (
        f"{source}: no such file or folder here, where runs is a folder: correct the name, or give hf-hub:{source} for "
        "a repository on the hub"
    )
    assert fake_hub.asked == []
    with pytest.raises(UserError, match="runs/typo: no such folder here, and no repository"):
        load_model(f"hf-hub:{source}")
    assert fake_hub.asked != []


# Models that are passed on


@pytest.fixture(scope="module")
def model(tiny_variant):
    torch.manual_seed(1)
    model = create_model(TINY, 2, stride=4, root_kernel_size=1).eval()
    model.metadata = replace(
        model.metadata,
        label_map=LabelMap(("leaf", "_<b> | x"), ((1, 2, 3), (4, 5, 6)), ((1,), (2,)), (255,)),
        mean=(0.25, 0.5, 0.75),
        std=(0.2, 0.2, 0.2),
        origin=(Origin("backbone_weights", "timm/x", "timm's", "ab12"),),
    )
    return model


def test_what_is_pushed_to_the_hub_comes_back(fake_hub, model):
    url = push_to_hub(model, "me/leaves", license="mit", token="hf_x")
    assert COMMIT in url
    assert sorted(fake_hub.repositories["me/leaves"]) == ["README.md", "config.json", "model.safetensors"]
    assert b'dlaseg.Predictor("me/leaves")' in fake_hub.repositories["me/leaves"]["README.md"]
    again = load_model("me/leaves")
    same(again, model)
    assert again.metadata == model.metadata
    assert not again.training
    same(create_model(TINY, 2, 4, 1, weights="me/leaves"), model)
    image = np.zeros((40, 50, 3), np.uint8)
    assert np.array_equal(Predictor("me/leaves")(image), Predictor(model)(image))


def test_a_revision_of_a_repository_is_asked_for_by_its_name(fake_hub, model):
    push_to_hub(model, "me/leaves")
    for revision in ("v1.2", "refs/pr/1"):
        same(load_model(f"me/leaves@{revision}"), model)
        assert ("HEAD", f"/me/leaves/resolve/{quote(revision, safe='')}/model.safetensors") in fake_hub.asked


def test_nothing_is_uploaded_of_a_model_that_cannot_be_saved(fake_hub):
    by_hand = DLASeg(create_backbone(TINY), num_classes=2)
    with pytest.raises(UserError, match="assembled by hand"):
        push_to_hub(by_hand, "me/leaves")
    assert fake_hub.asked == []


def test_what_is_saved_in_a_folder_comes_back(model, tmp_path):
    save_pretrained(model, tmp_path / "m")
    same(load_model(tmp_path / "m"), model)
    same(load_model(tmp_path / "m" / hub.FILE), model)
    same(create_model(TINY, 2, 4, 1, weights=tmp_path / "m"), model)
    assert json.loads((tmp_path / "m" / "config.json").read_text()) == model.metadata.architecture


def test_what_was_saved_in_a_folder_is_replaced_by_the_next_model(model, tmp_path):
    for other in (create_model(TINY, 3, decoder="afa", scales=[0.5, 1]), model):
        save_pretrained(other, tmp_path)
    save_pretrained(model, tmp_path, license="mit")
    same(load_model(tmp_path), model)
    assert ModelCard.load(tmp_path / "README.md").data.license == "mit"
    assert json.loads((tmp_path / "config.json").read_text()) == model.metadata.architecture

    for _ in range(2):
        save_pretrained(TwoHeads(2), tmp_path / "own")  # a family of the user's own


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README.md", "# My project\n\nlibrary_name: dlaseg\n"),
        ("README.md", "---\nlibrary_name: timm\n---\n\nlibrary_name: dlaseg\n"),
        ("README.md", ""),
        ("config.json", '{"name": "dla34"}'),
        ("config.json", "[]"),
        ("config.json", "{"),
    ],
)
def test_a_file_that_dlaseg_did_not_write_is_not_replaced(model, tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError) as error:
        save_pretrained(model, tmp_path)
    assert str(error.value) == f"{path}: would be replaced, but dlaseg did not write it: give another folder"
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == content


def test_the_same_weights_are_the_same_bytes(model, tmp_path):
    save_model(model, tmp_path / "a.safetensors")
    save_pretrained(model, tmp_path / "m")
    save_model(load_model(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    assert content == (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "m" / hub.FILE).read_bytes()
    assert int.from_bytes(content[:8], "little") % 8 == 0


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="a folder without weights"):
        load_model(tmp_path)


def test_a_broken_card_leaves_nothing_half_written(model, tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        save_pretrained(model, tmp_path / "m", run=tmp_path / "missing")
    assert not (tmp_path / "m").exists()


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    record = "name: leaves\ndata:\n  dataset: folder\n  train_split: train\n  val_split: val\n"
    (folder / "config.yaml").write_text(record)
    rows = [{"epoch": i, "loss": 1.0, "lr": 0.1, "miou": miou} for i, miou in ((1, 0.25), (2, None))]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = {"command": ["dlaseg", "train", "--config", "my leaves.yaml"], "packages": {"torch": "2.9"}}
    environment |= {"gpus": []} | dict.fromkeys(("python", "platform", "git_commit", "cpus"))
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


@pytest.fixture
def scores(tmp_path):
    classes = {"leaf": {"iou": 0.5}, "_<b> | x": {"iou": None}}
    protocol = {
        "dataset": "folder",
        "split": "test",
        "images": 7,
        "scales": [1.0],
        "flip": True,
        "weights_sha256": "f00",
    }
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"miou": 0.5, "pixel_accuracy": 0.75, "classes": classes, "protocol": protocol}))
    return path


def test_the_card_of_a_run_without_a_validation_split_says_where_its_images_came_from(model, run, tmp_path):
    with (run / "config.yaml").open("a") as file:
        file.write("  val_share: 0.1\n")
    save_pretrained(model, tmp_path / "m", run)
    text = (tmp_path / "m/README.md").read_text()
    assert "folder, train; validated on 0.1 of its images, left out of training." in text


def test_the_card_tells_classes_data_protocol_scores_command_and_licence(model, run, scores, tmp_path):
    content = json.loads(scores.read_text())
    content["protocol"]["weights_sha256"] = model_sha256(model)
    scores.write_text(json.dumps(content))
    save_pretrained(model, tmp_path / "m", run, scores, "cc-by-4.0")
    card = ModelCard.load(tmp_path / "m" / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "dlaseg"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("mean_iou", 0.5, "test")
    lines = card.text.splitlines()
    assert "| 0 | leaf | 1, 2, 3 | 50.00 |" in lines
    assert r"| 1 | \_\<b> \| x | 4, 5, 6 | - |" in lines
    assert "folder, train; validated on val." in lines
    assert "Initial weights: timm/x as backbone_weights (timm's; SHA-256 ab12)." in lines
    assert "mIoU 50.00 %, pixel accuracy 75.00 %." in lines
    assert (
        "folder test, one confusion matrix over 7 whole images at native size, scales 1.0, with horizontal flip"
        in card.text
    )
    assert "dlaseg train --config 'my leaves.yaml'" in lines
    assert "2 epochs:" in lines
    assert "\n\n\n" not in card.text


def test_scores_of_other_weights_are_told_and_given_to_no_leader_board(model, run, scores, tmp_path, caplog):
    save_pretrained(model, tmp_path / "m", run, scores, "mit")
    assert "scores of weights with SHA-256" in caplog.text
    assert ModelCard.load(tmp_path / "m" / "README.md").data.eval_results is None


def test_the_card_tells_the_arguments_of_the_network(tmp_path):
    model = create_model("dla46_c", 3, stride=4, decoder="afa", head="ocr", scales=[0.5, 1.0])
    text = " ".join(model_card(model).text.split())
    expected = "output stride 4, 3x3 aggregation nodes, decoder afa, head ocr, scales [0.5, 1.0]."
    assert f"dla46_c, 3 classes, {expected}" in text


def test_the_card_tells_held_out_scores_earlier_runs_and_no_folders_of_the_machine(model, run, scores, tmp_path):
    second = tmp_path / "second"
    shutil.copytree(run, second)
    environment = json.loads((second / "environment.json").read_text())
    environment["command"] = ["/home/me/bin/dlaseg", "train", "--config", "/home/me/configs/b.yaml", "--output", "/x/b"]
    (second / "environment.json").write_text(json.dumps(environment))
    with (second / "config.yaml").open("a") as file:
        file.write("  root: /home/me/leaves\n")
    parts = {"oak": scores, "elm": 0.25}
    card = model_card(model, [run, second], scores, "other", parts, "Ask first.", "A note.", "leaves").text
    lines = card.splitlines()
    assert [line for line in lines if line.startswith(("| oak", "| elm", "| mean"))] == [
        "| oak | 50.00 |", "| elm | 25.00 |", "| mean | 37.50 |",
    ]  # fmt: skip
    assert "First, 2 epochs on folder, train; validated on val:" in lines
    assert lines.index("dlaseg train --config 'my leaves.yaml'") < lines.index("Then 2 epochs:")
    assert lines.index("Then 2 epochs:") < lines.index("dlaseg train --config configs/b.yaml --output b")
    assert "  root: leaves" in lines
    assert "/home" not in card
    assert {"A note.", "Ask first.", 'predictor = dlaseg.Predictor("leaves")'} <= set(lines)
    assert "\n\n\n" not in card


def test_a_card_without_run_and_scores_says_that_it_lacks_them(model, tmp_path):
    save_pretrained(model, tmp_path / "m")
    card = ModelCard.load(tmp_path / "m" / "README.md")
    assert card.data.license == "unknown"
    assert card.text.count("Not available.") == 3
    assert "Not stated." in card.text


def test_a_card_without_scores_tells_the_best_of_training(model, run):
    assert "Best validation mIoU during training: 25.00 %" in model_card(model, run=run).text


def test_scores_of_other_classes_are_refused(model, scores):
    model = create_model(TINY, 2, 4)
    with pytest.raises(UserError, match=r"scores\.json: its classes are not those of the model"):
        model_card(model, scores=scores)


def test_scores_of_label_maps_are_refused(model, scores):
    content = json.loads(scores.read_text())
    content["protocol"]["predictions"] = "label_maps"
    scores.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"scores\.json: scores of label maps, not of a network"):
        model_card(model, scores=scores)


@pytest.mark.parametrize("fault", ["environment.json", "log.jsonl", "config.yaml", "empty", "classifier"])
def test_a_broken_run_folder_is_refused(model, run, fault):
    if fault == "empty":
        (run / "log.jsonl").write_text("")
    elif fault == "classifier":
        (run / "config.yaml").write_text("data: {train_split: train, val_split: val}\n")
    else:
        (run / fault).write_text("{")
    with pytest.raises(UserError, match="run: not a run folder of dlaseg train"):
        model_card(model, run=run)


def test_a_broken_scores_file_is_refused(model, tmp_path):
    (tmp_path / "s.json").write_text("{}")
    with pytest.raises(UserError, match=r"s\.json: not a scores\.json of dlaseg eval"):
        model_card(model, scores=tmp_path / "s.json")


def test_the_cards_own_example_runs(model, tmp_path):
    save_pretrained(model, tmp_path / "m")
    code = re.search(r"```python\n(.+?)```", (tmp_path / "m" / "README.md").read_text(), re.DOTALL)[1]
    cv2.imwrite(str(tmp_path / "street.jpg"), np.zeros((40, 50, 3), np.uint8))
    names: dict[str, object] = {}
    exec(code.replace("USER/NAME", str(tmp_path / "m")).replace("street.jpg", str(tmp_path / "street.jpg")), names)
    assert names["labels"].shape == (40, 50)


def test_what_a_push_says_reaches_the_hub(fake_hub, model, monkeypatch):
    create, upload, told = HfApi.create_repo, HfApi.upload_folder, []

    def record(call):
        return lambda self, *args, **options: told.append((self.token, options)) or call(self, *args, **options)

    monkeypatch.setattr(HfApi, "create_repo", record(create))
    monkeypatch.setattr(HfApi, "upload_folder", record(upload))
    push_to_hub(model, "me/leaves", private=True, token="hf_x", commit_message="Better leaves")
    (first, created), (second, uploaded) = told
    assert (first, second) == ("hf_x", "hf_x")
    assert (created["private"], uploaded["commit_message"]) == (True, "Better leaves")


def test_scores_that_need_a_note_are_given_to_no_leader_board(model, run, scores):
    content = json.loads(scores.read_text())
    content["protocol"]["weights_sha256"] = model_sha256(model)
    scores.write_text(json.dumps(content))
    assert model_card(model, run, scores).data.eval_results is not None
    assert model_card(model, run, scores, score_note="Its images were trained on.").data.eval_results is None
    content["protocol"] |= {"trained_on": True, "padding": "stretch", "tiled": True}
    scores.write_text(json.dumps(content))
    card = model_card(model, run, scores)
    assert card.data.eval_results is None
    assert "trained on images of this split: its scores are too high" in card.text
    assert "with horizontal flip, stretched to multiples of 128, large images in tiles. mIoU" in card.text
