"""Every victim of the registry keeps one contract: it learns, and it runs at its real size."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unseg.data.synthetic import Synthetic
from unseg.metrics import ConfusionMatrix
from unseg.models.formats.imagenet import load_efficientnet_lite0
from unseg.utils.errors import UserError
from unseg.victims.data.tensor_set import as_input, fit_frame
from unseg.victims.networks.registry import ARCHITECTURES, build_victim
from unseg.victims.networks.victim import Victim
from unseg.victims.training.class_map_task import segmentation_loss


def four_scenes(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Four synthetic pictures (4, 3, side, side) in [0, 1] and their masks."""
    scenes = Synthetic(4, image_size=2 * side, seed=3)
    framed = []
    for i in range(4):
        scene = scenes[i]
        image = torch.from_numpy(scene.image).permute(2, 0, 1).float() / 255
        label = torch.from_numpy((scene.mask > 0).astype("uint8"))
        framed.append(fit_frame(image, label, side=side, keep_ratio=False)[:2])
    return as_input(torch.stack([f[0] for f in framed])), torch.stack([f[1] for f in framed]).long()


class VictimContract:
    """What holds for every victim; a subclass names one."""

    arch: str
    side = 32
    lr = 3e-3
    max_steps = 150

    @pytest.mark.slow
    def test_tiny_version_overfits_four_pictures(self) -> None:
        torch.manual_seed(0)
        images, labels = four_scenes(self.side)
        victim = build_victim(self.arch, num_classes=2, tiny=True)
        optimizer = torch.optim.Adam(victim.parameters(), self.lr, fused=True)
        best = 0.0
        for step in range(self.max_steps):
            logits = victim(images)
            optimizer.zero_grad()
            segmentation_loss(logits, labels, dice=True).backward()
            optimizer.step()
            if step % 10 == 9:
                best = self._score(victim, images, labels)
                if best > 0.9:
                    return
        pytest.fail(f"IoU {best:.3f} after {self.max_steps} steps")

    @staticmethod
    def _score(victim: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
        victim.eval()
        counts = ConfusionMatrix(2)
        with torch.no_grad():
            counts.update(victim(images).argmax(1), labels)
        victim.train()
        return counts.foreground_iou()

    @pytest.mark.slow
    def test_real_size_takes_two_steps_and_evaluates(self) -> None:
        torch.manual_seed(0)
        victim = build_victim(self.arch, num_classes=3)
        optimizer = torch.optim.SGD(victim.parameters(), 1e-3)
        # Not a multiple of any divisor: the victim pads and crops by itself.
        images, labels = torch.rand(2, 3, 40, 37), torch.randint(0, 3, (2, 40, 37))
        losses = []
        for _ in range(2):
            loss = segmentation_loss(victim(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] != losses[1]
        idle = [name for name, p in victim.named_parameters() if p.grad is None]
        # The library's EfficientNet keeps the head of its classifier.
        assert len(idle) < 0.02 * len(list(victim.parameters())), idle
        for name, parameter in victim.named_parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
        victim.eval()
        with torch.no_grad():
            assert victim(images).shape == (2, 3, 40, 37)

    def test_width_makes_it_larger(self) -> None:
        # Torch 2.6 cannot import this under "meta", where the first test may be this one.
        importlib.import_module("segmentation_models_pytorch")
        sizes = []
        for width in (1.0, 2.0):
            with torch.device("meta"):  # shapes alone, no initialisation
                victim = build_victim(self.arch, num_classes=2, tiny=True, width=width)
            sizes.append(sum(p.numel() for p in victim.parameters()))
        assert sizes[1] > sizes[0]


class TestPlainUNet(VictimContract):
    arch = "unet_plain"


class TestUNet(VictimContract):
    arch = "unet"


class TestUNetPlusPlusResNet50(VictimContract):
    arch = "unetplusplus_resnet50"


class TestUNetPlusPlusDenseNet169(VictimContract):
    arch = "unetplusplus_densenet169"


class TestUNetPlusPlusEfficientNetB6(VictimContract):
    arch = "unetplusplus_efficientnet_b6"


class TestUNetPlusPlusRes2Net50(VictimContract):
    arch = "unetplusplus_res2net50"


class TestUNetPlusPlusRegNetX(VictimContract):
    arch = "unetplusplus_regnetx"


class TestDeepLabV1(VictimContract):
    arch = "deeplabv1_vgg16"
    side = 96  # its logits are an eighth of that


class TestDeepLabV3ResNet50(VictimContract):
    arch = "deeplabv3_resnet50"
    side = 64


class TestDeepLabV3ResNet101(VictimContract):
    arch = "deeplabv3_resnet101"

    def test_tiny_version_overfits_four_pictures(self) -> None:
        # It is the same network as ResNet-50's, which does.
        both = [
            build_victim(arch, num_classes=2, tiny=True).network.state_dict()
            for arch in (self.arch, TestDeepLabV3ResNet50.arch)
        ]
        shapes = [{name: value.shape for name, value in state.items()} for state in both]
        assert shapes[0] == shapes[1]


class TestSegFormerB0(VictimContract):
    arch = "segformer_b0"


class TestSegFormerB2(VictimContract):
    arch = "segformer_b2"


class TestUNetEfficientNetLite0(VictimContract):
    arch = "unet_efficientnet_lite0"


class TestFPNEfficientNetLite0(VictimContract):
    arch = "fpn_efficientnet_lite0"
    side = 64


def test_every_registered_victim_has_a_contract() -> None:
    tested = {c.arch for c in VictimContract.__subclasses__()}
    # Those that find objects are tested in test_victims_object_networks.py.
    assert tested == {name for name, entry in ARCHITECTURES.items() if entry.victim is Victim}


def test_whole_and_encoder_weights_load_by_content(tmp_path: Path) -> None:
    torch.manual_seed(1)
    donor = build_victim("unet", num_classes=2, tiny=True)
    torch.save({"state_dict": donor.state_dict()}, tmp_path / "whole.pt")
    encoder = {**donor.network.encoder.state_dict(), "fc.weight": torch.zeros(3, 3)}
    save_file(encoder, tmp_path / "encoder.safetensors")
    whole = build_victim(
        "unet", num_classes=2, tiny=True, weights="path", weights_path=tmp_path / "whole.pt"
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), donor.state_dict().values(), strict=True)
    )
    # Another number of classes: the encoder alone fits.
    other = build_victim(
        "unet",
        num_classes=5,
        tiny=True,
        weights="path",
        weights_path=tmp_path / "encoder.safetensors",
    )
    assert torch.equal(other.network.encoder.conv1.weight, donor.network.encoder.conv1.weight)


def test_imagenet_weights_know_a_cat_and_reach_the_victim_s_encoder() -> None:
    import timm
    from skimage import data

    cat = torch.from_numpy(data.chelsea()[:300, 80:380].copy()).permute(2, 0, 1)[None] / 255
    cat = torch.nn.functional.interpolate(cat, (224, 224), mode="bilinear", antialias=True)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    load_efficientnet_lite0(network)
    with torch.no_grad():
        found = network((cat - 0.5) / 0.5).argmax().item()
    assert found in range(281, 286)  # the domestic cats of ImageNet
    victim = build_victim("unet_efficientnet_lite0", num_classes=2, tiny=True, weights="imagenet")
    assert torch.equal(victim.network.encoder.model.conv_stem.weight, network.conv_stem.weight)
    assert victim.mean.flatten().tolist() == victim.std.flatten().tolist() == [0.5] * 3


def test_imagenet_weights_that_are_not_to_be_had_are_refused() -> None:
    with pytest.raises(UserError, match="no installable ImageNet weights.*lite0"):
        build_victim("unet_plain", num_classes=2, weights="imagenet")
    with pytest.raises(UserError, match="another network than EfficientNet-Lite0"):
        load_efficientnet_lite0(torch.nn.Conv2d(3, 8, 3))


def test_weights_of_another_network_are_refused_with_the_first_wrong_key(tmp_path: Path) -> None:
    torch.save({"something.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other\.pt.*something\.weight"):
        build_victim(
            "unet_plain",
            num_classes=2,
            tiny=True,
            weights="path",
            weights_path=tmp_path / "other.pt",
        )


def test_an_unknown_victim_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown victim 'vgg'; known are unet_plain"):
        build_victim("vgg", num_classes=2)


def test_deeplabv1_keeps_an_eighth_of_the_size_and_a_dilated_classifier() -> None:
    network = build_victim("deeplabv1_vgg16", num_classes=4, tiny=True).network.eval()
    assert network(torch.rand(1, 3, 64, 72)).shape == (1, 4, 8, 9)
    dilations = [m.dilation[0] for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert dilations[-6:] == [2, 2, 2, 12, 1, 1]
