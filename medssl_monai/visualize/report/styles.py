"""The page's look: system fonts, light and dark, narrow screens, print."""

from __future__ import annotations

#: Okabe & Ito's palette, darkened for white paper so that each line has a contrast of 3:1 or more
_LIGHT = ("#0072b2", "#c44e00", "#007a5a", "#a8457f", "#5b5fc7", "#8a6d00", "#4a4a4a")
#: the same hues, lightened for a dark ground
_DARK = ("#56b4e9", "#f59a57", "#35c79c", "#e79bc5", "#a9adff", "#e6c229", "#d0d0d0")

N_COLOURS = len(_LIGHT)


def _variables(colours: tuple[str, ...], **others: str) -> str:
    named = {f"s{k}": colour for k, colour in enumerate(colours)} | others
    return " ".join(f"--{name.replace('_', '-')}: {value};" for name, value in named.items())


_LIGHT_VARIABLES = _variables(
    _LIGHT, paper="#ffffff", ink="#1b1f24", soft="#57606a", line="#d0d7de", panel="#f5f7f9", link="#0a58a8",
    heat="#0072b2", good="#00694d", bad="#a83200", caution="#fff4dd", caution_line="#b57b00",
)  # fmt: skip
_DARK_VARIABLES = _variables(
    _DARK, paper="#14181d", ink="#e8ebee", soft="#a8b2bd", line="#3a424b", panel="#1d232a", link="#7cc0ff",
    heat="#1f7ab8", good="#4fd3a5", bad="#ff9d73", caution="#332a14", caution_line="#d9a441",
)  # fmt: skip

_SERIES = "\n".join(
    f".s{k} {{ --colour: var(--s{k}); }}" for k in range(N_COLOURS)
)  # each line, marker and swatch takes its colour from its class

STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT_VARIABLES} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK_VARIABLES} }} }}
* {{ box-sizing: border-box; }}
html {{ background: var(--paper); }}
body {{ margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
  overflow-wrap: anywhere; }}
h1 {{ font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; }}
h2 {{ font-size: 1.3rem; margin: 2.6rem 0 .6rem; padding-top: .5rem; border-top: 1px solid var(--line); }}
h3 {{ font-size: 1.08rem; margin: 1.8rem 0 .4rem; }}
p {{ margin: .5rem 0; max-width: 46rem; }}
ul {{ max-width: 46rem; padding-left: 1.3rem; margin: .5rem 0; }}
li {{ margin: .25rem 0; }}
a {{ color: var(--link); }}
code, pre {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: .85rem; }}
pre {{ background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: .7rem .9rem;
  max-height: 32rem; overflow: auto; white-space: pre-wrap; }}
.soft {{ color: var(--soft); }}
.small {{ font-size: .88rem; }}
.answer {{ background: var(--panel); border: 1px solid var(--line); border-left: 5px solid var(--s0);
  border-radius: 6px; padding: .8rem 1.1rem; margin: 1rem 0; }}
.answer p, .answer ul, .caution ul {{ max-width: none; }}
.answer .headline {{ font-size: 1.2rem; font-weight: 600; line-height: 1.4; margin: .2rem 0 .6rem; }}
.caution {{ background: var(--caution); border: 1px solid var(--caution-line); border-radius: 6px;
  padding: .6rem 1.1rem; margin: 1rem 0; }}
.caution h2, .answer h2 {{ border: 0; margin: .2rem 0; padding: 0; font-size: 1.05rem; }}
.missing {{ border: 1px dashed var(--soft); border-radius: 6px; padding: .5rem .9rem; color: var(--soft); }}
.badge {{ display: inline-block; border: 1px solid currentColor; border-radius: 4px; padding: 0 .4rem;
  font-size: .78rem; font-weight: 600; white-space: nowrap; }}
.good {{ color: var(--good); }}
.bad {{ color: var(--bad); }}
nav ul {{ display: flex; flex-wrap: wrap; gap: .1rem 1rem; list-style: none; padding: 0; max-width: none;
  font-size: .92rem; }}
.scroll {{ overflow-x: auto; margin: .8rem 0; max-width: 100%; }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; font-weight: 600; padding: 0 0 .35rem; position: sticky; left: 0;
  max-width: min(60rem, 100vw - 2rem); }}
th, td {{ padding: .28rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word; }}
.pairs td {{ overflow-wrap: anywhere; min-width: 8rem; }}
thead th {{ border-bottom: 2px solid var(--soft); vertical-align: bottom; }}
tbody th {{ font-weight: 500; }}
.pairs th {{ color: var(--soft); width: 14rem; }}
.span {{ white-space: nowrap; }}
.confusion td {{ text-align: center; min-width: 3.6rem;
  background: color-mix(in srgb, var(--heat) calc(var(--share) * 70%), var(--paper)); }}
.confusion td.none {{ color: var(--soft); }}
figure {{ margin: 1rem 0; }}
figure svg {{ display: block; width: 100%; max-width: 40rem; height: auto; }}
figure img {{ display: block; width: auto; height: auto; background: #ffffff; border: 1px solid var(--line);
  border-radius: 6px; padding: 6px; }}
figure img {{ max-width: min(100%, 44rem); }}
figure img.tall {{ max-width: min(100%, 28rem); }}
figcaption {{ font-size: .9rem; color: var(--soft); max-width: 46rem; margin-top: .4rem; }}
.grid {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: .5rem 1.5rem; }}
.grid figure {{ margin: .5rem 0; min-width: 0; }}
details {{ margin: .5rem 0; }}
summary {{ cursor: pointer; color: var(--link); font-size: .92rem; }}
.legend {{ display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; font-size: .88rem; margin: .4rem 0 0; padding: 0;
  list-style: none; max-width: 40rem; }}
figure .legend svg {{ display: inline-block; width: 2.6rem; height: 1rem; vertical-align: -.15rem;
  margin-right: .35rem; }}
dt {{ font-weight: 600; margin-top: .6rem; }}
dd {{ margin: 0 0 .2rem; max-width: 46rem; }}
svg text {{ fill: var(--ink); font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
  "Liberation Sans", sans-serif; }}
svg .tick {{ fill: var(--soft); font-size: 12px; }}
svg .rule {{ stroke: var(--line); stroke-width: 1; fill: none; }}
svg .axis {{ stroke: var(--soft); stroke-width: 1; fill: none; }}
svg .reference {{ stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 7 4; fill: none; }}
svg .band {{ fill: var(--soft); opacity: .14; }}
svg .curve {{ stroke: var(--colour); stroke-width: 2; fill: none; }}
svg .whisker {{ stroke: var(--colour); stroke-width: 1.6; fill: none; }}
svg .whisker.thick {{ stroke-width: 5; opacity: .55; }}
svg .mark {{ fill: var(--colour); stroke: var(--paper); stroke-width: .8; }}
svg .mark.hollow {{ fill: var(--paper); stroke: var(--colour); stroke-width: 1.4; }}
svg .seed {{ fill: none; stroke: var(--colour); stroke-width: 1; opacity: .8; }}
svg .bar {{ fill: var(--colour); opacity: .35; stroke: var(--colour); }}
{_SERIES}
@media print {{
  @page {{ size: A4; margin: 16mm 15mm; }}
  :root {{ color-scheme: light; }}
  html, body {{ background: #ffffff; }}
  body {{ font-size: 10pt; padding: 0; max-width: none; }}
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
  nav, figure details, .screen {{ display: none; }}
  h1, h2, h3, caption, summary {{ break-after: avoid; }}
  figure, tr, .answer, .caution, dt, .legend {{ break-inside: avoid; }}
  dd {{ break-before: avoid; }}
  .scroll {{ overflow: visible; }}
  caption {{ position: static; max-width: none; }}
  table {{ font-size: 8.4pt; }}
  th, td {{ padding: .2rem .45rem; }}
  pre {{ max-height: none; }}
  figure svg {{ max-width: 13.5cm; }}
  .grid figure svg {{ max-width: 8cm; }}
  .grid {{ grid-template-columns: 1fr 1fr; }}
  figure img, figure img.tall {{ max-width: 15cm; max-height: 20cm; }}
  a {{ color: inherit; text-decoration: none; }}
}}
"""
