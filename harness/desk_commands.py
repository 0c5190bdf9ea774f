"""`lab targets`, `doctor`, `console`, `shell`, `power`, `unlock`: at a desk, with one target."""

from __future__ import annotations

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness import desk, doctor, inventory
from harness.errors import UsageError
from harness.inventory import Inventory, Target
from harness.lab.reservation import Reservation

__all__ = ["COMMANDS"]

CHECK_MARKS = {True: "[green]ok[/]", False: "[red]no[/]", None: "[yellow]--[/]"}


def _inventory(ctx: click.Context) -> Inventory:
    return inventory.load(ctx.obj or inventory.default_path())


@click.command()
@click.option("--import", "importing", is_flag=True, help="Print entries for labgrid's places.")
@click.pass_context
def targets(ctx: click.Context, importing: bool) -> None:
    """What is configured."""
    listed = _inventory(ctx)
    if importing:
        click.echo(_places(listed), nl=False)
        return
    owners = _owners(listed)
    table = Table(box=None, pad_edge=False)
    for column in ("target", "driver", "reached by", "console", "power", "may hang", "held by"):
        table.add_column(column)
    for target in listed.targets.values():
        holder = Reservation.holder(target.name)
        table.add_row(
            target.name,
            target.driver,
            *_ways(target),
            "yes" if target.destructive else "no",
            f"{holder.user}, pid {holder.pid}" if holder else escape(owners.get(target.name, "")),
        )
    Console().print(table)


def _ways(target: Target) -> tuple[str, str, str]:
    """How it is reached, its console and its power; what it lacks it may have of its place."""
    if target.vm:
        return f"QEMU, {target.vm.card}", "serial", "QEMU"
    public, lacks = target.public(), "its place" if target.shared else "none"
    console, power = (public[key]["kind"] for key in ("console", "power"))
    return (
        f"{target.user}@{target.address}" if target.address else lacks,
        lacks if console == "none" else console,
        lacks if power == "none" else power,
    )


def _places(listed: Inventory) -> str:
    if listed.coordinator is None:
        raise UsageError(
            "no coordinator is configured", where=str(listed.path), cure='[lab] coordinator = "..."'
        )
    from harness.labgrid import listing

    return listing.target_list(listed.coordinator)


def _owners(listed: Inventory) -> dict[str, str]:
    if not any(target.shared for target in listed.targets.values()):
        return {}
    from harness.labgrid import listing

    return listing.holders(listed.targets.values())


@click.command("doctor")
@click.argument("name")
@click.pass_context
def doctor_command(ctx: click.Context, name: str) -> None:
    """What works on a target, line by line, each failure with its cure."""
    target = _inventory(ctx).get(name)
    console = Console(highlight=False, soft_wrap=True)
    failed = 0
    for check in doctor.examine(target):
        found = f": {escape(check.found)}" if check.found else ""
        console.print(f"{CHECK_MARKS[check.ok]} {escape(check.what)}{found}")
        if check.ok is not True and check.cure:
            console.print(f"   cure: {check.cure}", markup=False)
        failed += check.ok is False
    console.print(f"{failed} of them must be mended" if failed else "fit", style="bold")
    ctx.exit(4 if failed else 0)


@click.command()
@click.argument("name")
@click.pass_context
def console(ctx: click.Context, name: str) -> None:
    """The target's console; Ctrl-] ends."""
    ctx.exit(desk.console(_inventory(ctx).get(name)))


@click.command()
@click.argument("name")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def shell(ctx: click.Context, name: str, argv: tuple[str, ...]) -> None:
    """A shell on the target, or one command there."""
    ctx.exit(desk.shell(_inventory(ctx).get(name), argv))


@click.command()
@click.argument("name")
@click.argument("action", type=click.Choice(["on", "off", "cycle", "query", "nmi"]))
@click.pass_context
def power(ctx: click.Context, name: str, action: str) -> None:
    """Switch the target's power, ask for it, or raise an NMI."""
    desk.power(_inventory(ctx).get(name), action)


@click.command()
@click.argument("name")
@click.pass_context
def unlock(ctx: click.Context, name: str) -> None:
    """Break the lock a run holds on a target."""
    target = _inventory(ctx).get(name)
    holder = Reservation.holder(target.name)
    if target.coordinator is not None:
        from harness.labgrid import listing

        if kicked := listing.kick(target):
            click.echo(f"{name} taken from {kicked}")
            Reservation.break_lock(target.name)
            return
    if holder is None:
        click.echo(f"{name} is not held")
        return
    Reservation.break_lock(target.name)
    click.echo(f"{name} taken from {holder.user}, pid {holder.pid}: {holder.command}")


COMMANDS = (targets, doctor_command, console, shell, power, unlock)
"""What `lab` gains."""
