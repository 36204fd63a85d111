"""Style sheet of the report page: light, system fonts, nothing fetched; prints well."""

CSS = """
:root { --ink: #1f2933; --quiet: #5b6773; --line: #dfe4e9; --paper: #ffffff; --back: #f6f8fa;
  --accent: #174a7c; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--back); color: var(--ink); line-height: 1.55; font-size: 16px;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial,
  sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 0 24px 64px; }
header { max-width: 1180px; margin: 0 auto; padding: 56px 24px 8px; }
.kicker { margin: 0; color: var(--accent); font-size: 13px; font-weight: 600; letter-spacing: .08em;
  text-transform: uppercase; }
h1 { margin: 4px 0 6px; font-size: 38px; line-height: 1.15; letter-spacing: -.02em;
  overflow-wrap: anywhere; }
.meta { margin: 0 0 20px; color: var(--quiet); overflow-wrap: anywhere; }
.lead { max-width: 46em; margin: 0 0 12px; font-size: 18.5px; line-height: 1.6; }
nav { margin: 18px 0 0; font-size: 14px; }
nav a { margin-right: 18px; color: var(--accent); text-decoration: none; border-bottom: 1px solid #b9cbdc; }
section { margin: 28px 0 0; padding: 26px 30px 28px; background: var(--paper);
  border: 1px solid var(--line);
  border-radius: 10px; }
h2 { margin: 0 0 4px; font-size: 22px; letter-spacing: -.01em; }
h3 { margin: 26px 0 6px; font-size: 16px; }
p.note, figcaption, ul.notes { color: var(--quiet); font-size: 14px; }
p.note { margin: 0 0 14px; max-width: 52em; }
ul.notes { margin: 14px 0 0; padding-left: 18px; }
.warning { margin: 12px 0 0; padding: 10px 14px; border-left: 4px solid #b7791f; background: #fdf6e6;
  border-radius: 4px; font-size: 15px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(158px, 1fr)); gap: 12px;
  margin: 24px 0 0; }
.card { padding: 14px 16px 13px; background: var(--paper); border: 1px solid var(--line);
  border-top: 4px solid var(--tone); border-radius: 8px; }
.card .name { font-weight: 600; overflow-wrap: anywhere; }
.card .big { font-size: 31px; line-height: 1.2; font-weight: 650; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.card .big.none { font-size: 17px; line-height: 2.2; color: var(--quiet); font-weight: 400; }
.card .small { color: var(--quiet); font-size: 13px; }
.bar { height: 5px; margin: 6px 0 7px; background: #e9edf1; border-radius: 3px; overflow: hidden; }
.bar i { display: block; height: 100%; width: var(--part); background: var(--tone); }
.scroll { overflow-x: auto; margin: 12px -6px 0; padding: 0 6px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 9px; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: 4px; white-space: nowrap; }
thead th { color: var(--quiet); font-size: 12.5px; font-weight: 600; line-height: 1.3;
  vertical-align: bottom;
  border-bottom: 2px solid var(--ink); }
tbody tr:last-child > * { border-bottom: 0; }
tbody th { font-weight: 600; }
td b { font-weight: 650; font-size: 15px; }
td { white-space: nowrap; }
td.text { white-space: normal; text-align: left; }
th.text { text-align: left; }
td .spread { display: block; color: var(--quiet); font-size: 12px; white-space: nowrap; }
td.none { color: #8a949e; font-style: italic; }
.chip { display: inline-block; width: 11px; height: 11px; margin-right: 8px; border-radius: 3px;
  background: var(--tone); }
figure { margin: 18px 0 0; }
figure img { display: block; max-width: 100%; height: auto; }
#stream figure:first-of-type img, #tasks img, #cost img { width: 100%; }
#stream figure:last-of-type img { width: 640px; }
figcaption { margin-top: 8px; max-width: 52em; }
.matrices { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 10px 26px; }
.matrices.wide { grid-template-columns: 1fr; }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(470px, 1fr)); gap: 10px 26px; }
.clips h4 { margin: 6px 0; font-size: 14px; font-weight: 600; color: var(--quiet); }
.strip { display: grid; grid-template-columns: repeat(3, 1fr); gap: 8px; }
.clips figure { margin: 0; }
.clips img { width: 100%; border-radius: 6px; border: 1px solid var(--line); }
.clips figcaption { margin-top: 3px; font-size: 12.5px; }
.yes { color: #1c6b2c; } .no { color: #a03030; }
dl { margin: 8px 0 0; display: grid; grid-template-columns: minmax(190px, 240px) 1fr; gap: 10px 22px;
  font-size: 14.5px; }
dt { font-weight: 600; } dd { margin: 0; } dd .source { display: block; color: var(--quiet);
  font-size: 13px; }
code { font-family: ui-monospace, "SF Mono", Consolas, "Liberation Mono", monospace; font-size: .92em;
  background: #f0f3f6; padding: 1px 5px; border-radius: 4px; overflow-wrap: anywhere; }
footer { max-width: 1180px; margin: 0 auto; padding: 0 24px 48px; color: var(--quiet); font-size: 13px; }
@media (max-width: 640px) { section { padding: 20px 16px; } h1 { font-size: 29px;
  } dl { grid-template-columns: 1fr; } }
@media print { body { background: #fff; } section { break-inside: avoid; border: 0; padding: 8px 0;
  } nav { display: none; } }
"""
