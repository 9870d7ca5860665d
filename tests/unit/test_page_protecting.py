"""What the page makes of pictures: the command's bytes, true figures, nothing left behind."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from generate_cases import save_generator
from page_cases import KINDS, SIZE, make_pictures, png_of_size, protector

from unseg.commands.protect import main as protect_command
from unseg.io.pictures import read_picture
from unseg.models.weights import load_noise
from unseg.page import protecting
from unseg.page.handlers import Handlers
from unseg.page.marks import Marks, Stroke
from unseg.page.protecting import describe_result, downloads
from unseg.page.session import Limits, Session, Sessions
from unseg.protection.methods import NoiseKey
from unseg.protection.writing.check import check_set
from unseg.utils.errors import UserError

STRENGTH = {"epsilon": 8, "epsilon_bg": 2}
BOX = Marks(boxes=((30.0, 20.0, 70.0, 60.0),))


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "window", Limits())


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Path]:
    return make_pictures(tmp_path / "pictures")


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_picture_keeps_its_size_and_kind_and_its_budget(session, pictures, name):
    upload = session.add(pictures[name])
    upload.marks = BOX
    assert protector().protect(session, [upload], **STRENGTH) == []
    assert upload.output is not None
    clean, written = read_picture(pictures[name]), read_picture(upload.output)
    upright = SIZE[::-1] if name == "portrait.jpg" else SIZE
    assert written.size == clean.size == upright
    assert written.orientation == 1
    assert written.pixels.dtype == clean.pixels.dtype
    assert written.is_grey == clean.is_grey
    assert written.icc == clean.icc
    assert (written.icc is not None) == (name == "profile.png")
    if name == "clear.png":
        assert np.array_equal(written.alpha, clean.alpha)
        hidden = clean.alpha == 0
        assert np.array_equal(written.pixels[hidden], clean.pixels[hidden])
    scale = clean.max_value // 255
    change = np.abs(written.pixels.astype(int) - clean.pixels).max(axis=2)
    inside = np.zeros(clean.size, bool)
    inside[20:61, 30:71] = True
    assert 2 * scale < change[inside].max() <= 8 * scale
    assert 0 < change[~inside].max() <= 2 * scale
    assert "of 8 levels inside" in describe_result(upload)


@pytest.mark.parametrize("key", [None, NoiseKey(b"0123456789abcdef")])
def test_the_page_writes_the_bytes_of_the_command(session, pictures, tmp_path, key):
    upload = session.add(pictures["plain.png"])
    upload.marks = BOX
    protector().protect(session, [upload], key=key, **STRENGTH)
    weights = save_generator(tmp_path / "generator.safetensors")
    call = [str(pictures["plain.png"]), "--box", "30,20,70,60", "--device", "cpu"]
    out = tmp_path / "out"
    if key is not None:
        (tmp_path / "secret.key").write_bytes(b"0123456789abcdef\n")
        call += ["--key", str(tmp_path / "secret.key")]
    assert protect_command([*call, "--generator", str(weights), "--output", str(out)]) == 0
    assert upload.output is not None
    assert upload.output.read_bytes() == (out / "plain.png").read_bytes()


@pytest.mark.parametrize(
    "marks",
    [
        Marks(),
        BOX,
        Marks(points=((50.0, 40.0, 1),)),
        Marks(boxes=((5.0, 5.0, 40.0, 40.0), (60.0, 30.0, 100.0, 80.0))),
        Marks(strokes=(Stroke(9, False, ((30.0, 30.0), (80.0, 60.0))),)),
    ],
)
@pytest.mark.parametrize("key", [None, NoiseKey(b"0123456789abcdef")])
def test_the_live_figure_of_a_small_picture_is_the_one_measured(session, pictures, marks, key):
    upload = session.add(pictures["plain.png"])
    upload.marks = marks
    psnr, is_estimate = protector().psnr(upload, key=key, **STRENGTH)
    protector().protect(session, [upload], key=key, **STRENGTH)
    assert upload.entry is not None
    assert not is_estimate
    assert psnr == pytest.approx(upload.entry["psnr"], abs=1e-3)


def test_a_pattern_protects_as_a_generator_does(session, pictures):
    upload = session.add(pictures["plain.png"])
    upload.marks = BOX
    one = protecting.Protector(load_noise("pattern"), torch.device("cpu"))
    psnr, _ = one.psnr(upload, **STRENGTH)
    assert one.protect(session, [upload], **STRENGTH) == []
    assert upload.entry is not None
    assert psnr == pytest.approx(upload.entry["psnr"], abs=1e-3)


def test_the_live_figure_of_a_reduced_picture_is_near(session, pictures, monkeypatch):
    monkeypatch.setattr(protecting, "VIEW_SIDE", 60)
    upload = session.add(pictures["plain.png"])
    upload.marks = BOX
    psnr, is_estimate = protector().psnr(upload, **STRENGTH)
    protector().protect(session, [upload], **STRENGTH)
    assert upload.entry is not None
    assert is_estimate
    assert psnr == pytest.approx(upload.entry["psnr"], abs=0.5)


def test_a_stronger_noise_lowers_the_figure_without_another_forward_pass(session, pictures):
    upload = session.add(pictures["plain.png"])
    one = protector()
    weak, _ = one.psnr(upload, epsilon=4, epsilon_bg=2)
    kept = upload.cached
    strong, _ = one.psnr(upload, epsilon=16, epsilon_bg=2)
    assert upload.cached is kept
    assert strong < weak - 6
    upload.marks = BOX
    one.psnr(upload, epsilon=16, epsilon_bg=2)
    assert upload.cached is not kept


def test_outside_must_not_be_stronger_than_inside(session, pictures):
    upload = session.add(pictures["plain.png"])
    with pytest.raises(UserError, match="must not exceed"):
        protector().protect(session, [upload], epsilon=2, epsilon_bg=4)


def test_the_zip_is_a_set_that_unseg_check_accepts(session, pictures, tmp_path):
    uploads = [session.add(pictures[name]) for name in ("plain.png", "grey.png")]
    uploads[0].marks = BOX
    one = protector()
    one.protect(session, uploads[:1], **STRENGTH)
    one.protect(session, uploads[1:], epsilon=4, epsilon_bg=0)
    single, archive = downloads(session, uploads[1])
    assert single is not None
    assert single.name == "grey.png"
    assert archive is not None
    with zipfile.ZipFile(archive) as file:
        names = set(file.namelist())
        file.extractall(tmp_path / "unzipped")
    assert names == {"plain.png", "grey.png", "manifest.jsonl", "README.txt"}
    text = (tmp_path / "unzipped/manifest.jsonl").read_text()
    assert [json.loads(line)["budget"] for line in text.splitlines()] == [[8, 2], [4, 0]]
    assert str(session.folder) not in text
    checked = check_set(tmp_path / "unzipped", tmp_path / "pictures", qualities=())
    assert (checked.count, checked.faults) == (2, [])


def test_pictures_of_the_same_name_stay_apart(session, pictures, tmp_path):
    other = make_pictures(tmp_path / "other")["plain.png"]
    other.rename(other.with_suffix(".bmp"))
    uploads = [session.add(pictures["plain.png"]), session.add(other.with_suffix(".bmp"))]
    assert [upload.key for upload in uploads] == ["plain.png", "plain-2.bmp"]
    assert protector().protect(session, uploads, **STRENGTH) == []
    assert len({upload.output for upload in uploads}) == 2


def test_names_cannot_leave_the_folder(session, pictures):
    upload = session.add(pictures["plain.png"], name="../../etc/..hidden.png")
    assert upload.path.parent == session.folder / "originals"
    assert session.add(pictures["plain.png"], name="..").key == "picture"


def test_text_that_is_called_a_picture_gets_a_clear_message(session, pictures):
    with pytest.raises(UserError, match=r"^notes\.jpg: not a picture of JPEG"):
        session.add(pictures["notes.jpg"])
    assert list((session.folder / "originals").iterdir()) == []


def test_uploads_are_bounded_in_pixels_bytes_and_number(tmp_path, pictures):
    (tmp_path / "large.png").write_bytes(png_of_size(1100, 1000))
    small = Session(tmp_path / "a", Limits(megapixels=1))
    with pytest.raises(UserError, match=r"large\.png: .*1 megapixels.*--max-megapixels"):
        small.add(tmp_path / "large.png")
    with pytest.raises(UserError, match="larger than 0.001 MB"):
        Session(tmp_path / "b", Limits(megabytes=0.001)).add(pictures["plain.png"])
    few = Session(tmp_path / "c", Limits(num_pictures=1))
    few.add(pictures["plain.png"])
    with pytest.raises(UserError, match="at most 1 pictures"):
        few.add(pictures["grey.png"])


def test_a_camera_of_24_megapixels_is_within_24_megapixels():
    assert Limits().max_pixels >= 6048 * 4024


def test_windows_share_nothing_and_leave_nothing(tmp_path, pictures):
    sessions = Sessions(tmp_path / "page", Limits())
    handlers = Handlers(sessions, protector(), lambda **change: change)
    copies = [tmp_path / f"upload{i}.png" for i in range(2)]
    for copy in copies:
        copy.write_bytes(pictures["plain.png"].read_bytes())
    handlers.load("a", [str(copies[0])])
    handlers.load("b", [str(copies[0]), str(copies[1])])
    assert list(sessions.of("a").uploads) == ["upload0.png"]
    assert list(sessions.of("b").uploads) == ["upload0.png", "upload1.png"]
    refused = handlers.protect("a", "upload1.png", 8, 2)
    assert "choose a picture" in refused["status"]
    handlers.protect("a", "upload0.png", 8, 2)
    assert sessions.of("b").uploads["upload0.png"].output is None
    sessions.close("a")
    assert copies[0].exists()  # window b has taken the same bytes
    sessions.close("b")
    assert not any(copy.exists() for copy in copies)
    assert list((tmp_path / "page").iterdir()) == []


def test_a_window_keeps_the_noise_of_one_picture_in_memory(tmp_path, pictures):
    handlers = Handlers(Sessions(tmp_path / "page", Limits()), protector(), lambda **change: change)
    names = ["plain.png", "grey.png"]
    handlers.load("a", [str(pictures[name]) for name in names])
    for name in names:
        handlers.strength("a", name, 8, 2)
    uploads = handlers.sessions.of("a").uploads
    assert [uploads[name].cached is None for name in names] == [True, False]


def test_marking_again_takes_an_old_result_away(tmp_path, pictures):
    handlers = Handlers(Sessions(tmp_path / "page", Limits()), protector(), lambda **change: change)
    handlers.load("a", [str(pictures["plain.png"])])
    assert handlers.protect("a", "plain.png", 8, 2)["download"]["visible"]
    marks = {"points": [[60, 45, 1]]}
    message = json.dumps({"picture": "plain.png", "serial": 1, "marks": marks})
    after = handlers.mark("a", message)
    assert json.loads(after["layer"])["serial"] == 1
    assert json.loads(after["layer"])["mask"].startswith("data:image/png")
    assert not after["download"]["visible"]
    assert after["compare"] == "{}"


def test_marks_that_a_click_on_the_button_overtook_are_protected(tmp_path, pictures):
    handlers = Handlers(Sessions(tmp_path / "page", Limits()), protector(), lambda **change: change)
    handlers.load("a", [str(pictures["plain.png"])])
    message = json.dumps({"picture": "plain.png", "serial": 1, "marks": BOX.as_dict()})
    done = handlers.protect("a", "plain.png", 8, 2, message)
    assert "(15.6 % of the picture)" in done["status"]  # 41 x 41 of 90 x 120
    assert handlers.mark("a", message)["download"]["visible"]


def test_the_secret_of_a_window_stays_in_no_file(tmp_path, pictures):
    handlers = Handlers(Sessions(tmp_path / "page", Limits()), protector(), lambda **change: change)
    handlers.load("a", [str(pictures["plain.png"])])
    plain = handlers.protect("a", "plain.png", 8, 2)["compare"]
    secret = "correct horse battery"
    assert handlers.protect("a", "plain.png", 8, 2, None, secret)["compare"] != plain
    assert "dB" in handlers.strength("a", "plain.png", 8, 2, secret)["psnr"]
    folder = handlers.sessions.of("a").folder
    for path in (one for one in folder.rglob("*") if one.is_file()):
        assert secret.encode() not in path.read_bytes(), path
    for values in (
        handlers.protect("a", "plain.png", 8, 2, None, "hunter2"),
        handlers.strength("a", "plain.png", 8, 2, "hunter2"),
    ):
        (text,) = values.values()
        assert "the secret has 7 bytes, at least 16 are needed" in text
        assert "hunter2" not in text


def test_a_name_that_looks_like_markup_is_shown_as_text(tmp_path, pictures):
    evil = tmp_path / "<img src=x onerror=alert(1)>.jpg"
    evil.write_bytes(b"no picture")
    handlers = Handlers(Sessions(tmp_path / "page", Limits()), protector(), dict)
    text = handlers.load("a", [str(evil)])["status"]
    assert "<img" not in text
    assert "&lt;img" in text


def test_views_are_of_the_pictures_shape(session, pictures):
    upload = session.add(pictures["portrait.jpg"])
    protector().protect(session, [upload], **STRENGTH)
    for name, uri in protecting.comparison(upload).items():
        assert uri.startswith("data:image/png;base64,"), name
        import base64

        data = np.frombuffer(base64.b64decode(uri.split(",")[1]), np.uint8)
        assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape == (*SIZE[::-1], 3)
