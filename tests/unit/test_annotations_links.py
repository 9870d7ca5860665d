"""Data sets as people lay them out by symbolic links, and what of them stays refused."""

import json
import shutil

import pytest
from annotation_cases import (
    image,
    label,
    square,
    write_cityscapes,
    write_class_png,
    write_coco_instances,
    write_folder_of_images,
    write_panoptic,
)
from generate_cases import entries_of, make_set, protect_set

from unseg.commands.check import main as check
from unseg.config.dataset import DatasetConfig
from unseg.data.annotations import build_source
from unseg.data.annotations.tree import twin_folder
from unseg.data.header_check import check_dataset
from unseg.data.hqseg import open_folders, open_list
from unseg.data.pairs import DataError
from unseg.utils.errors import UserError
from unseg.victims.data.load import picture_pairs, protected_file

SIGNS = ("method=random_sign", "noise.grid=8")


def move_out(root, name):
    """The folder or file goes to the store beside the root; a link stays in its place."""
    store = root.parent / "store"
    target = store / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(root / name, target)
    (root / name).symlink_to(target)


def each_folder(root):
    for folder in [p for p in root.iterdir() if p.is_dir()]:
        move_out(root, folder.name)


def each_inner_folder(root):
    for folder in [p for p in root.glob("*/*/*") if p.is_dir()]:
        move_out(root, folder.relative_to(root).as_posix())


def each_file(root):
    for path in [p for p in root.rglob("*") if p.is_file()]:
        move_out(root, path.relative_to(root).as_posix())


def the_root(root):
    shutil.move(root, root.parent / "store")
    root.symlink_to(root.parent / "store")


LAYOUTS = {
    "root": (write_class_png, the_root),
    "folders": (write_class_png, each_folder),
    "files": (write_class_png, each_file),
    "files of one folder": (write_folder_of_images, each_file),
    "cities": (write_cityscapes, each_inner_folder),
    "folders of a JSON": (write_coco_instances, each_folder),
    "folders of panoptic": (write_panoptic, each_folder),
    "JSON": (write_coco_instances, lambda root: move_out(root, "instances.json")),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_links_that_the_user_made_are_followed(tmp_path, name):
    write, lay_out = LAYOUTS[name]
    root = tmp_path / "set"
    config = write(root)
    plain = build_source(config)
    before = [(item.key, plain.read(item).class_map.sum()) for item in plain.items()]
    lay_out(root)
    source = build_source(config)
    assert [(i.key, source.read(i).class_map.sum()) for i in source.items()] == before


def list_set(root, text):
    for name in "ab":
        image(root / f"im/{name}.jpg")
        label(root / f"gt/{name}.png", square(255))
    (root / "list.txt").write_text(text)
    return {
        "format": "binary_mask", "root": str(root), "images": "im", "labels": "gt",
        "list_file": "list.txt",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["a\nb\n", "im/a.jpg gt/a.png\nim/b.jpg gt/b.png\n"])
def test_a_list_may_name_what_lies_in_linked_folders(tmp_path, text):
    config = DatasetConfig(**list_set(tmp_path / "set", text))
    each_folder(tmp_path / "set")
    move_out(tmp_path / "set", "list.txt")
    items = build_source(config).items()
    assert [(item.key, item.fault) for item in items] == [("a.jpg", None), ("b.jpg", None)]


def test_linked_files_of_a_list_need_their_folder_named(tmp_path):
    values = list_set(tmp_path / "set", "a\nb\n")
    each_file(tmp_path / "set")
    faults = [item.fault for item in build_source(DatasetConfig(**values)).items()]
    assert all("name the folder that it leads to in data.links_to" in str(f) for f in faults)
    config = DatasetConfig(**values, links_to=(str(tmp_path / "store"),))
    source = build_source(config)
    assert [source.read(item).class_map.sum() for item in source.items()] == [24, 24]


def test_linked_files_of_a_json_need_their_folder_named(tmp_path):
    config = write_coco_instances(tmp_path / "set")
    each_file(tmp_path / "set")
    assert all("links_to" in str(item.fault) for item in build_source(config).items())
    named = DatasetConfig(**{**vars(config), "links_to": (str(tmp_path / "store"),)})
    assert [item.fault for item in build_source(named).items()] == [None, None]


ESCAPES = {
    "climbs": "../secret",
    "absolute": "/etc/passwd.png",
    "climbs inside": "sub/../../secret.jpg",
    "linked file": "link",
    "linked folder": "folder/secret.jpg",
    "back and out": "folder/set/im/a.jpg\nfolder/secret.jpg",
    "pair that climbs": "im/a.jpg ../gt/a.png",
    "pair with a linked file": "im/link.jpg gt/a.png",
    "pair with a linked mask": "im/a.jpg gt/link.png",
    "pair in no configured folder": "other/secret.jpg gt/a.png",
    "drive": "C:\\x.jpg",
    "backslashes": "..\\secret.jpg",
}


@pytest.mark.parametrize("lay_out", [lambda root: None, each_folder], ids=["plain", "linked"])
@pytest.mark.parametrize("name", ESCAPES)
def test_no_list_leads_out_of_the_configured_folders(tmp_path, name, lay_out):
    root = tmp_path / "set"
    config = DatasetConfig(**list_set(root, ESCAPES[name] + "\na\n"))
    lay_out(root)
    image(tmp_path / "secret.jpg")
    (root / "im/link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "gt/link.png").symlink_to(tmp_path / "secret.jpg")
    (root / "im/folder").symlink_to(tmp_path)
    (root / "other").symlink_to(tmp_path)
    source = build_source(config)
    *_, bad, good = source.items()
    assert bad.fault is not None
    assert "list.txt" in bad.fault
    with pytest.raises(UserError, match=r"below|symbolic"):
        source.read(bad)
    assert source.read(good).segments


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "link.jpg", "folder/secret.jpg"])
@pytest.mark.parametrize("format_", ["coco", "boxes"])
def test_no_json_leads_out_of_linked_images(tmp_path, name, format_):
    root = tmp_path / "set"
    config = write_coco_instances(root)
    each_folder(root)
    image(tmp_path / "secret.jpg")
    hidden = name.replace("link", ".link").replace("folder", ".folder")
    (root / "im/.link.jpg").symlink_to(tmp_path / "secret.jpg")
    path = root / "instances.json"
    content = json.loads(path.read_text("utf-8"))
    content["images"][0]["file_name"] = hidden
    if format_ == "boxes":  # a scan finds links that are not hidden
        content = {hidden: {"boxes": [[1, 1, 2, 2]]}, "a.jpg": {"boxes": [[1, 1, 2, 2]]}}
        config = DatasetConfig(**{**vars(config), "format": "folder"})
    else:
        (root / "im/.folder").symlink_to(tmp_path)
    path.write_text(json.dumps(content))
    faults = {item.key: item.fault for item in build_source(config).items()}
    assert ("instances.json" in str(faults.pop(hidden))) or name.startswith("folder")
    assert set(faults.values()) == {None}


@pytest.mark.parametrize("lay_out", [the_root, each_folder, each_file])
def test_links_in_a_folder_protected_before_are_followed(tmp_path, lay_out):
    config = write_folder_of_images(tmp_path / "set")
    shutil.copytree(tmp_path / "set", tmp_path / "protected")
    lay_out(tmp_path / "protected")
    pairs = picture_pairs(config, tmp_path / "protected")
    assert [protected.read_bytes() for _, protected in pairs] == [
        clean.read_bytes() for clean, _ in pairs
    ]


def test_linked_files_protected_before_need_their_folder_named_where_a_list_names_them(tmp_path):
    config = DatasetConfig(**list_set(tmp_path / "set", "a\n"))
    (tmp_path / "protected").mkdir()
    link = tmp_path / "protected/a.png"  # lossless, in another format than the clean one
    link.symlink_to(tmp_path / "set/im/a.jpg")
    assert picture_pairs(config, tmp_path / "protected") == [(tmp_path / "set/im/a.jpg", link)]
    image(tmp_path / "store/a.png")
    link.unlink()
    link.symlink_to(tmp_path / "store/a.png")
    with pytest.raises(UserError, match="name the folder that it leads to in data.links_to"):
        picture_pairs(config, tmp_path / "protected")
    named = DatasetConfig(**{**vars(config), "links_to": (str(tmp_path / "store"),)})
    assert picture_pairs(named, tmp_path / "protected") == [(tmp_path / "set/im/a.jpg", link)]


ESCAPES_OF_KEYS = {
    "climbs": "../secret.jpg",
    "absolute": "/etc/passwd.png",
    "climbs inside": "im/../../secret.jpg",
    "linked file": "link.jpg",
    "linked file below": "im/link.jpg",
    "linked file of another format": "other.jpg",
    "linked folder": "folder/secret.jpg",
    "drive": "C:\\x.jpg",
    "backslashes": "..\\secret.jpg",
}


@pytest.mark.parametrize("name", ESCAPES_OF_KEYS)
@pytest.mark.parametrize("root_is_link", [False, True])
def test_no_list_leads_out_of_a_folder_protected_before(tmp_path, name, root_is_link):
    root = tmp_path / "protected"
    config = DatasetConfig(**list_set(tmp_path / "set", "a\n"))
    image(root / "im/a.jpg")
    image(tmp_path / "secret.jpg")
    for link in ("link.jpg", "im/link.jpg", "other.png"):
        (root / link).symlink_to(tmp_path / "secret.jpg")
    (root / "folder").symlink_to(tmp_path)
    if root_is_link:
        the_root(root)
    with pytest.raises(UserError, match=r"below|symbolic"):
        protected_file(twin_folder(config, root), ESCAPES_OF_KEYS[name])
    assert protected_file(twin_folder(config, root), "im/a.jpg").is_file()


@pytest.mark.parametrize("key", ["images", "labels", "list_file"])
@pytest.mark.parametrize("place", ["../elsewhere", "/etc"])
def test_configured_places_are_below_the_root_by_name(tmp_path, key, place):
    values = list_set(tmp_path / "set", "a\n") | {key: place}
    with pytest.raises(UserError, match="must be a path below"):
        build_source(DatasetConfig(**values)).items()


def test_a_link_that_makes_a_loop_is_not_walked_again(tmp_path):
    config = write_folder_of_images(tmp_path)
    (tmp_path / "sub/loop").symlink_to(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/sub").symlink_to(tmp_path / "sub")
    keys = [item.key for item in build_source(config).items()]
    assert keys == ["a.png", "other/sub/b.jpg", "sub/b.jpg"]


@pytest.mark.parametrize("lay_out", [each_folder, each_file], ids=["folders", "files"])
def test_a_linked_tree_is_protected_mirrored_and_checked(tmp_path, lay_out):
    root = make_set(tmp_path / "set", 3)
    plain = protect_set(root, tmp_path / "plain", *SIGNS)
    lay_out(root)
    summary = protect_set(root, tmp_path / "out", *SIGNS, "output.layout=mirror")
    assert summary.counts == plain.counts
    entries = entries_of(tmp_path / "out")
    assert {k: e["output_sha256"] for k, e in entries.items()} == {
        k: e["output_sha256"] for k, e in entries_of(tmp_path / "plain").items()
    }
    masks = sorted(p.name for p in (tmp_path / "out/masks").iterdir())
    assert masks == ["000.png", "001.png", "002.png"]
    assert not any(p.is_symlink() for p in (tmp_path / "out").rglob("*"))
    assert check([str(tmp_path / "plain"), "--against", str(root / "images")]) == 0


def test_an_output_that_another_input_leads_to_is_refused(tmp_path):
    root = make_set(tmp_path / "set", 2)
    (tmp_path / "store/deep").mkdir(parents=True)
    shutil.move(root / "images/000.png", tmp_path / "store/deep/001.png")
    (root / "images/000.png").symlink_to(tmp_path / "store/deep/001.png")
    with pytest.raises(UserError, match=r"000\.png: would be overwritten by .* 001\.png"):
        protect_set(root, tmp_path / "store/deep", *SIGNS)


def test_training_pairs_follow_links_but_lists_do_not(tmp_path):
    root = make_set(tmp_path / "set", 2)
    each_file(root)
    assert len(check_dataset(open_folders("links", root / "images", root / "masks"))) == 2
    (root / "pairs.txt").write_text("images/000.png\tmasks/000.png\n")
    with pytest.raises(DataError, match="symbolic link"):
        check_dataset(open_list(root / "pairs.txt"))
    store = str(tmp_path / "store")
    assert len(check_dataset(open_list(root / "pairs.txt", links_to=[store]))) == 1
