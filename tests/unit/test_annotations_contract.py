"""Every adapter passes the same contract."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import annotation_cases as cases
import numpy as np
import pytest
from annotation_cases import HEIGHT, WIDTH

from unseg.config.dataset import DatasetConfig
from unseg.data.annotations import SOURCES, build_source
from unseg.types import VOID_CLASS
from unseg.utils.errors import UserError


class AnnotationContract:
    """Inherit, and set `write`, which writes at least two images and returns their config."""

    write: Callable[[Path], DatasetConfig]

    @pytest.fixture
    def source(self, tmp_path):
        return build_source(self.write(tmp_path))

    def test_items_are_unique_relative_and_in_a_fixed_order(self, source, tmp_path):
        keys = [item.key for item in source.items()]
        assert len(set(keys)) == len(keys) >= 2
        assert not any(key.startswith(("/", "..")) for key in keys)
        again = build_source(source.config)
        assert [item.key for item in again.items()] == keys

    def test_every_image_exists_below_the_root(self, source, tmp_path):
        for item in source.items():
            assert item.fault is None
            assert item.image_path.is_file()
            assert item.image_path.resolve().is_relative_to(tmp_path.resolve())

    def test_annotations_have_the_documented_shapes_and_types(self, source):
        for item in source.items():
            annotation = source.read(item)
            assert annotation.size == (HEIGHT, WIDTH)
            assert annotation.class_map.shape == (HEIGHT, WIDTH)
            assert annotation.class_map.dtype == np.int32
            for segment in annotation.segments:
                assert segment.mask.shape == (HEIGHT, WIDTH)
                assert segment.mask.dtype == bool

    def test_class_ids_are_void_or_named(self, source):
        names = source.class_names
        assert source.num_classes == len(names)
        assert source.thing_ids <= set(names)
        for item in source.items():
            annotation = source.read(item)
            assert set(np.unique(annotation.class_map)) <= {VOID_CLASS, *names}
            for segment in annotation.segments:
                assert segment.category in names
                assert segment.is_thing == (segment.category in source.thing_ids)

    def test_segments_have_distinct_ids(self, source):
        for item in source.items():
            ids = [segment.instance_id for segment in source.read(item).segments]
            assert len(set(ids)) == len(ids)

    def test_reading_twice_gives_the_same(self, source):
        item = source.items()[0]
        first, second = source.read(item), source.read(item)
        assert np.array_equal(first.class_map, second.class_map)
        assert len(first.segments) == len(second.segments)

    def test_the_source_travels_to_worker_processes(self, source):
        other = pickle.loads(pickle.dumps(source))
        item = source.items()[1]
        assert np.array_equal(other.read(item).class_map, source.read(item).class_map)

    def test_a_missing_root_is_one_clear_error(self, source, tmp_path):
        config = dataclasses.replace(source.config, root=str(tmp_path / "absent"))
        with pytest.raises(UserError, match="absent: no such folder"):
            build_source(config)


class TestClassPng(AnnotationContract):
    write = staticmethod(cases.write_class_png)


class TestBinaryMask(AnnotationContract):
    write = staticmethod(cases.write_binary_mask)


class TestColourMap(AnnotationContract):
    write = staticmethod(cases.write_colour_map)


class TestCocoInstances(AnnotationContract):
    write = staticmethod(cases.write_coco_instances)


class TestPanoptic(AnnotationContract):
    write = staticmethod(cases.write_panoptic)


class TestCityscapes(AnnotationContract):
    write = staticmethod(cases.write_cityscapes)


class TestFolderOfImages(AnnotationContract):
    write = staticmethod(cases.write_folder_of_images)


class TestFolderWithMasks(AnnotationContract):
    write = staticmethod(cases.write_folder_with_masks)


class TestFolderWithBoxes(AnnotationContract):
    write = staticmethod(cases.write_folder_with_boxes)


class TestFolderWithPoints(AnnotationContract):
    write = staticmethod(cases.write_folder_with_points)


def test_every_registered_format_has_a_contract_class(tmp_path):
    covered = set()
    for cls in AnnotationContract.__subclasses__():
        root = tmp_path / cls.__name__
        root.mkdir()
        covered.add(cls.write(root).format)
    assert covered == set(SOURCES)
