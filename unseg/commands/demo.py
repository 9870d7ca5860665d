"""Open the local web page on which pictures are marked and protected."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unseg.commands._run import user_errors
from unseg.commands._screen import Screen, add_screen_flags
from unseg.utils.errors import UserError

if TYPE_CHECKING:
    from unseg.page.proving import ProofJob

DOC = """Open a page in your browser: drop pictures, mark the object, choose the strength, download.

  unseg demo --generator weight_dir/generator.safetensors
  unseg demo --port 8000 --no-browser

The page also proves the protection, as `unseg check --prove` does (extra [eval]), in a process of
its own that ends with the window and with the command.

The page is served to this computer only, answers only its own windows, asks nothing of the network,
and removes its temporary files when a window closes and when the command ends (Ctrl+C). Those of a
command that was killed are removed at the next start.
"""


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run `unseg demo [...]`."""
    options = _parser().parse_args(argv)
    screen = Screen.of(options)
    _check(options, screen)
    from unseg.page.folder import temporary_folder
    from unseg.page.session import Limits
    from unseg.protection.api import load_generator
    from unseg.utils.distributed import pick_device

    device = pick_device(options.device)
    try:
        generator = load_generator(options.generator, options.device)
    except UserError as error:
        raise UserError(f"--generator: {error}") from None
    with _ended_by_signals(), temporary_folder() as folder:
        _set_environment(folder)
        from unseg.page.app import serve
        from unseg.page.proving import ProofOffer
        from unseg.page.strength import first_strength
        from unseg.victims.grid.prove import COST, FEWEST_PICTURES

        server = serve(
            generator,
            device=device,
            folder=folder,
            host=options.host,
            port=options.port,
            limits=Limits(megapixels=options.max_megapixels, megabytes=options.max_megabytes),
            open_browser=not options.no_browser,
            strength=first_strength(options.generator),
            offer=ProofOffer(prove_pictures, fewest=FEWEST_PICTURES, cost=COST),
        )
        try:
            screen.give({"url": server.url})
            screen.say(f"The page is at {server.url} (Ctrl+C ends it)")
            server.wait()
        except KeyboardInterrupt:  # the usual end, not a failure
            with contextlib.suppress(OSError):  # the terminal is gone
                screen.say(_farewell(server.refused))
        finally:
            server.close()
    return 0


def prove_pictures(job: ProofJob, on_progress: Callable[[int, int], None]) -> list[str]:
    """What `unseg check --prove` finds for pictures of the page, in sentences; writes the report.

    Args:
        job: pictures, masks, and where the report goes.
        on_progress: takes (done, total) parts of the work.
    """
    from unseg.utils.provenance import provenance
    from unseg.victims.grid.proof_pictures import find_pictures
    from unseg.victims.grid.prove import prove
    from unseg.victims.report.page import need_page_packages
    from unseg.victims.report.proof import words, write_proof

    need_page_packages()
    found = find_pictures(job.protected, job.clean, job.masks)
    proof = prove(found, on_progress=on_progress)
    write_proof(proof, job.page, origin=provenance("unseg demo"))
    return words(proof)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A service manager and a closed terminal end the page as Ctrl+C does: files are removed."""
    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # not every system has both
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # nohup
            before[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _farewell(refused: Counter[str]) -> str:
    text = "stopped; temporary files are removed"
    if not refused:
        return text
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(refused.items()))
    return f"{text}; requests refused because they were not of the page's windows: {kinds}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unseg demo", description=DOC, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this computer only)"
    )
    parser.add_argument("--port", type=int, default=7860, help="default: %(default)s")
    parser.add_argument(
        "--generator",
        default="pattern",
        metavar="NAME_OR_PATH",
        help="embedded generator or weight file (default: %(default)s)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--max-megapixels", type=float, default=24, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--max-megabytes",
        type=float,
        default=200,
        metavar="N",
        help="of one uploaded file (default: %(default)s)",
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    add_screen_flags(parser, json_help="print the address as a JSON object")
    return parser


def _check(options: argparse.Namespace, screen: Screen) -> None:
    """Every mistake that can be seen before a model is loaded.

    Raises:
        UserError: gradio is missing, a number out of range, or a port that is taken.
    """
    from unseg.page.guard import is_loopback

    if importlib.util.find_spec("gradio") is None:
        raise UserError('the page needs gradio; install it with: pip install "unseg[demo]"')
    for flag, value in (
        ("--max-megapixels", options.max_megapixels),
        ("--max-megabytes", options.max_megabytes),
    ):
        if not 0 < value < 1e5:
            raise UserError(f"{flag} {value:g}: must be above 0 (and below 100000)")
    if not 0 < options.port < 65536:
        raise UserError(f"--port {options.port}: must be between 1 and 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UserError(
            f"--host {options.host} --port {options.port}: cannot be listened on "
            f"({error.strerror or error}); choose another --port"
        ) from None
    if not is_loopback(str(address[0])):
        screen.warn(
            f"warning: --host {options.host} lets other computers use this page and its generator"
        )


def _set_environment(folder: Path) -> None:
    """For gradio, which reads these when it is imported and when it builds a page."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # A proxy must not be asked for this computer's own page.
    for name in ("NO_PROXY", "no_proxy"):
        known = os.environ.get(name)
        os.environ[name] = f"{known},127.0.0.1,localhost" if known else "127.0.0.1,localhost"
