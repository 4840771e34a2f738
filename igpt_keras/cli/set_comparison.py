"""The table of `igpt evaluate --samples`."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from igpt_keras.runs.result import Result


def print_comparison(result: "Result") -> None:
    """Prints how generated images compare with real ones, and real ones among each other."""
    from rich.console import Console
    from rich.table import Table

    from igpt_keras.runs.generated_images import distance_names

    metrics, settings = result.metrics["samples"], result.settings["samples"]
    features, reference = settings["features"], settings["reference"]
    among_real = metrics["real_images"]
    columns = {"samples": metrics} | ({"real images": among_real} if among_real else {})
    table = Table(title="Generated images", title_justify="left")
    for column in ("", *columns):
        table.add_column(column)
    frechet, kernel = distance_names(features)
    for row, cell in (
        (frechet, "{frechet_distance:.4f}"),
        (kernel, "{kernel_distance:.5f} ± {kernel_distance_std:.5f}"),
        ("precision", "{precision:.3f}"),
        ("recall", "{recall:.3f}"),
    ):
        table.add_row(row, *(cell.format(**each) for each in columns.values()))
    Console().print(table)
    split, size = reference["split"], settings["samples"]["image_size"]
    samples = (
        f"{settings['samples']['num_images']:,} with {reference['num_images']:,} {split} images"
    )
    click.echo(f"Samples, at {size}×{size} pixels: {samples}")
    if among_real:
        counts = "{num_images:,} {split} images with {num_others:,} others"
        click.echo(f"Real images: {counts.format(split=split, **among_real)}")
    click.echo(f"Features: {features['name']}, {features['dimension']:,} numbers an image")
