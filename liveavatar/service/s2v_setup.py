"""What this installation has for the s2v engine: its files by their headers, and the graphics cards."""

from __future__ import annotations

from liveavatar.config import AppConfig
from liveavatar.core.parallel import ParallelPlan
from liveavatar.core.plan import ModelFiles
from liveavatar.diagnostics.diagnose import machines_missing
from liveavatar.diagnostics.doctor import inspect_checkpoint
from liveavatar.loading.checkpoint import CheckpointLayout
from liveavatar.monitoring.hardware import HardwareSnapshot
from liveavatar.monitoring.visible_cards import visible_cards
from liveavatar.planning.machine_text import spec_of_installed
from liveavatar.planning.s2v_request import S2vSetup
from liveavatar.service.cluster import Cluster


def find_s2v(
    config: AppConfig,
    hardware: HardwareSnapshot,
    avoided: frozenset[ParallelPlan] = frozenset(),
    cluster: Cluster | None = None,
) -> S2vSetup:
    """Look at the files again, in milliseconds: they may have been completed since the app started."""
    if config.ckpt_dir is None:
        return S2vSetup()
    # Only what is known to be others' is taken off: the rest may be the engine itself, which measures before it loads.
    gpus = tuple(
        spec_of_installed(
            name=gpu.name,
            total_bytes=gpu.total_bytes,
            used_bytes=gpu.other_bytes or 0,
            driver=hardware.driver,
            uuid=gpu.uuid,
        )[0]
        for gpu in visible_cards(hardware.gpus, config.visible_cards)
    )
    machines = cluster.machines if cluster else ()
    gpus += tuple(
        spec_of_installed(
            name=card.name,
            total_bytes=card.total_bytes,
            used_bytes=card.other_bytes,
            uuid=card.uuid,
            machine=machine.name,
        )[0]
        for machine in machines
        for card in machine.cards
    )
    if cluster is not None and 1 + len(machines) < config.nnodes:
        return S2vSetup(
            problem=machines_missing(config.nnodes, 1 + len(machines), str(cluster.endpoint)), gpus=gpus
        )
    report = inspect_checkpoint(config.ckpt_dir, config.lora_path)
    if not report.is_usable:
        return S2vSetup(problem=report.problems[0], gpus=gpus)
    lora = CheckpointLayout.find(config.ckpt_dir, config.lora_path).lora
    assert lora is not None, "a usable checkpoint has its LoRA"
    files = ModelFiles(
        checkpoint=str(config.ckpt_dir.absolute()),
        lora=str(lora.absolute()),
        cache=str((config.cache_dir or config.data_dir / "cache").absolute()),
    )
    return S2vSetup(
        files=files,
        num_parameters=report.part("transformer").num_parameters,
        gpus=gpus,
        host_bytes=hardware.host_total_bytes,
        host_free_bytes=hardware.host_available_bytes,
        precision=config.precision,
        kv_precision=config.kv,
        avoided=avoided,
        slots=(("", cluster.own_slots), *((machine.name, machine.slots) for machine in machines))
        if cluster
        else (),
    )
