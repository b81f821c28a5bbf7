"""`edgegen display`: the process that shows pictures on a screen."""

from __future__ import annotations

import click

from .app import App, pass_app
from .output import say


@click.command()
@click.option("--test-card", is_flag=True, help="Draw a test card and end.")
@pass_app
@click.pass_context
def display(ctx: click.Context, app: App, test_card: bool) -> None:
    """Show the newest picture on a screen, and how the next one comes along, until it is told to stop.

    Needs no X and no Wayland: with display.output "framebuffer" it draws on display.device, with "file" it
    keeps a PNG up to date that another program shows. `edgegen setup` finds screens and which way up they
    hang. It listens to the daemon, which may come and go, and reads its configuration again with it.

    \b
    Examples:
      edgegen display
      EDGEGEN_DISPLAY__OUTPUT=framebuffer edgegen display --test-card
      sudo systemctl enable --now edgegen-display
    """
    if test_card:
        say(draw_test_card(app))
        return
    from edgegen.frontends.display.process import run_display

    from .run import log_what_happens

    log_what_happens(app)
    ctx.exit(run_display(app.config_file))


def draw_test_card(app: App) -> str:
    """What was drawn on. Raises DisplayError."""
    from edgegen.errors import ConfigError
    from edgegen.frontends.display.process import open_screen
    from edgegen.frontends.display.testcard import show_test_card

    if app.settings.display.output == "off":
        raise ConfigError("display.output is off: set it to framebuffer or file, or use `edgegen setup`")
    screen = open_screen(app.settings)
    try:
        show_test_card(screen, app.settings.display.rotate)
        return str(screen)
    finally:
        screen.close()
