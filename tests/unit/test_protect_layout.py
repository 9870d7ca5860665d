"""Where outputs lie, what is refused, and mirrored data sets."""

import json

import pytest
from generate_cases import entries_of, make_config, make_set, protect_set, tree_bytes

from unseg.data.annotations import Item, build_source
from unseg.io.files import sha256_file
from unseg.io.pictures import read_picture
from unseg.protection.writing.output_paths import OutputPaths, build_output_paths
from unseg.utils.errors import UserError


def name_of(tmp_path, key, *overrides):
    config = make_config(tmp_path, tmp_path / "out", *overrides)
    return build_output_paths(config.output, config.data).relative(key)


def test_names_keep_tree_and_stem(tmp_path):
    assert name_of(tmp_path, "a/b.c/x.1.jpg") == "a/b.c/x.1.png"
    assert name_of(tmp_path, "x.PNG") == "x.PNG"
    assert name_of(tmp_path, "x.jpg", "output.format=jpeg") == "x.jpg"
    assert name_of(tmp_path, "x.bmp", "output.format=jpeg") == "x.jpg"
    assert name_of(tmp_path, "x.tif", "output.format=same") == "x.tif"
    assert name_of(tmp_path, "x.jpg", "output.format=same") == "x.png"
    assert name_of(tmp_path, "x.jpg", "output.keep_suffix=true") == "x.jpg"
    assert name_of(tmp_path, "x.jpg", "output.layout=mirror") == "images/x.png"


def test_outputs_outside_of_the_folder_are_refused(tmp_path):
    config = make_config(tmp_path, tmp_path / "out")
    layout = OutputPaths(config.output)
    for key in ("../x.jpg", "/etc/x.jpg", "a/../../x.jpg"):
        with pytest.raises(UserError):
            layout.path(key)


@pytest.mark.parametrize("out", ["images", "images/sub/deeper", "images/../images"])
def test_an_output_in_the_input_is_refused(tmp_path, out):
    make_set(tmp_path)
    with pytest.raises(UserError, match=r"output\.dir=.*lies in the input"):
        protect_set(tmp_path, tmp_path / out)


def test_an_output_in_a_data_set_to_be_mirrored_is_refused(tmp_path):
    make_set(tmp_path)
    with pytest.raises(UserError, match="lies in the input"):
        protect_set(tmp_path, tmp_path / "out", "output.layout=mirror")


def test_an_output_that_is_an_input_through_a_link_is_refused(tmp_path):
    make_set(tmp_path)
    (tmp_path / "out").symlink_to(tmp_path / "images")
    with pytest.raises(UserError, match="lies in the input"):
        protect_set(tmp_path, tmp_path / "out")


def test_two_inputs_of_one_output_are_refused_before_anything_is_written(tmp_path):
    root = make_set(tmp_path / "in", 2)
    (root / "images/000.bmp").write_bytes((root / "images/000.png").read_bytes())
    (root / "masks/000.bmp").write_bytes((root / "masks/000.png").read_bytes())
    with pytest.raises(UserError, match=r"000\.bmp and 000\.png would both be written to"):
        protect_set(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert protect_set(root, tmp_path / "out", "output.keep_suffix=true").counts["protected"] == 3


def coco_set(root):
    """A COCO-style set of JPEG names (PNG bytes), with a list and an unlisted image."""
    make_set(root, 3)
    images = []
    for i in range(3):
        path = root / f"images/{i:03d}.png"
        picture = read_picture(path)
        path.rename(path.with_suffix(".jpg"))
        images.append(
            {"id": i, "file_name": f"{i:03d}.jpg", "height": picture.size[0],
             "width": picture.size[1]}
        )  # fmt: skip
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "area": 100,
         "bbox": [2, 2, 10, 10], "segmentation": [[2, 2, 12, 2, 12, 12, 2, 12]]}
        for i in range(3)
    ]  # fmt: skip
    content = {
        "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]
    }  # fmt: skip
    (root / "instances.json").write_text(json.dumps(content))
    (root / "images/unlisted.jpg").write_bytes((root / "images/000.jpg").read_bytes())
    (root / "README.txt").write_text("terms")
    return root


COCO = ["data.format=coco", "data.labels=null", "data.annotations=instances.json"]


@pytest.mark.parametrize("how", ["link", "copy"])
def test_a_mirrored_set_is_read_by_the_same_configuration(tmp_path, how):
    root, out = coco_set(tmp_path / "in"), tmp_path / "out"
    summary = protect_set(root, out, *COCO, "output.layout=mirror", f"output.annotations={how}")
    assert summary.exit_code == 0
    assert summary.counts["protected"] == 3
    mirrored = make_config(out, tmp_path / "out2", *COCO)
    source = build_source(mirrored.data)
    original = build_source(make_config(root, out, *COCO).data)
    for new, old in zip(source.items(), original.items(), strict=True):
        assert new.key == old.key.replace(".jpg", ".png")
        assert read_picture(new.image_path).size == read_picture(old.image_path).size
        assert (source.read(new).class_map == original.read(old).class_map).all()
    found = tree_bytes(out)
    assert found["README.txt"] == b"terms"
    # Clean pictures are never published by mistake.
    assert not any(name.endswith(".jpg") for name in found)
    linked = (out / "README.txt").stat().st_ino == (root / "README.txt").stat().st_ino
    assert linked == (how == "link")
    # The data set itself is untouched.
    assert json.loads((root / "instances.json").read_text())["images"][0]["file_name"] == "000.jpg"


def test_a_mirror_copies_other_pictures_on_request_but_none_that_is_protected(
    tmp_path,
):
    root = coco_set(tmp_path / "in")
    (root / "val").mkdir()
    (root / "val/test.jpg").write_bytes((root / "masks/001.png").read_bytes())
    (root / "archive").mkdir()
    (root / "archive/copy of 000.dat").write_bytes((root / "images/000.jpg").read_bytes())
    (root / "archive/link.bin").symlink_to("../images/001.jpg")
    (root / "archive/outside.txt").symlink_to("/etc/hostname")
    (root / "folder").symlink_to(tmp_path)
    same, link = "not copied: the same as an image of the list", "not copied: a linked folder"
    expected = {
        "README.txt": "copied unchanged",
        "archive/copy of 000.dat": same,
        "archive/link.bin": same,
        "archive/outside.txt": "not copied: a link out of the data set",
        "folder": link,
        "images/unlisted.jpg": same,
        "instances.json": "copied with the new names",
        "list.txt": "copied unchanged",
        **dict.fromkeys(("masks/000.png", "masks/001.png", "masks/002.png", "val/test.jpg")),
    }
    for copies, what in (
        (False, "not copied: a picture outside of the list"),
        (True, "copied unchanged"),
    ):
        out = tmp_path / f"out {copies}"
        summary = protect_set(
            root, out, *COCO, "output.layout=mirror", f"output.copy_unlisted={copies}"
        )
        lines = map(json.loads, (out / "other_files.jsonl").read_text().splitlines())
        found = {line["file"]: line["what"] for line in lines}
        assert found == {name: kind or what for name, kind in expected.items()}
        written = {name for name in tree_bytes(out) if name in expected}
        assert written == {name for name, kind in found.items() if not kind.startswith("not")}
        assert summary.beside[same] == 3
        assert f"{same}  " in summary.table()


def test_a_mirror_keeps_the_old_names_on_request(tmp_path):
    root, out = coco_set(tmp_path / "in"), tmp_path / "out"
    protect_set(root, out, *COCO, "output.layout=mirror", "output.keep_suffix=true")
    assert (out / "instances.json").read_bytes() == (root / "instances.json").read_bytes()
    picture = read_picture(out / "images/000.jpg")
    assert picture.file_format == "PNG"


def test_a_mirror_rewrites_list_files(tmp_path):
    root, out = make_set(tmp_path / "in", 2), tmp_path / "out"
    for i in range(2):
        (root / f"images/{i:03d}.png").rename(root / f"images/{i:03d}.bmp")
    (root / "list.txt").write_text("images/000.bmp masks/000.png\nimages/001.bmp masks/001.png\n")
    protect_set(root, out, "data.list_file=list.txt", "output.layout=mirror")
    expected = "images/000.png masks/000.png\nimages/001.png masks/001.png\n"
    assert (out / "list.txt").read_text() == expected


def test_a_mirror_whose_image_would_replace_a_label_is_refused(tmp_path):
    root = make_set(tmp_path / "in", 1)
    (root / "images/000.png").rename(root / "masks/000.bmp")
    side_by_side = ["data.images=masks", "data.labels=null", "data.image_ending=.bmp",
                    "data.label_ending=.png", "output.layout=mirror"]  # fmt: skip
    with pytest.raises(UserError, match=r"would replace .*masks/000\.png.*keep_suffix"):
        protect_set(root, tmp_path / "out", *side_by_side)
    summary = protect_set(root, tmp_path / "out", *side_by_side, "output.keep_suffix=true")
    assert summary.counts["protected"] == 1
    assert (tmp_path / "out/masks/000.png").read_bytes() == (root / "masks/000.png").read_bytes()


def test_faulty_entries_do_not_stop_the_checks(tmp_path):
    layout = OutputPaths(make_config(tmp_path, tmp_path / "out").output)
    from unseg.protection.writing.output_paths import check_outputs

    check_outputs(layout, [Item(key="../x", image_path=tmp_path, fault="bad")], [])


def test_a_mirror_of_a_protected_set_has_its_own_records(tmp_path):
    root = make_set(tmp_path / "in", 2)
    protect_set(root, tmp_path / "once", "output.layout=mirror", "output.noise=true")
    protect_set(tmp_path / "once", tmp_path / "twice", "output.layout=mirror")
    assert entries_of(tmp_path / "twice")["000.png"]["output_sha256"] == sha256_file(
        tmp_path / "twice/images/000.png"
    )
    assert not (tmp_path / "twice/unseg_noise").exists()
