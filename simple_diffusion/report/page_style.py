"""Style sheet and script of the report."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6878; --line: #dfe3e9;
  --paper: #ffffff; --card: #f6f7f9; --accent: #2f6fae; --best: #dff1e4;
  --warn: #fff3d6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa5b4;
  --line: #323a46; --paper: #14181f; --card: #1c222b; --accent: #77b1e8;
  --best: #1f4630; --warn: #4a3a12; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5
  system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
.page { display: grid; grid-template-columns: 200px minmax(0, 1060px); gap: 40px;
  max-width: 1340px; margin: 0 auto; padding: 28px 24px 60px; }
nav { position: sticky; top: 28px; align-self: start; font-size: 13.5px; }
nav strong { display: block; margin-bottom: 8px; color: var(--soft); font-weight: 600; }
nav a { display: block; padding: 3px 0 3px 10px; border-left: 2px solid var(--line);
  color: var(--soft); text-decoration: none; }
nav a:hover { color: var(--accent); border-color: var(--accent); }
header { margin-bottom: 26px; }
h1 { margin: 0; font-size: 27px; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 0 0 12px; padding-bottom: 6px; border-bottom: 1px solid var(--line);
  font-size: 19px; }
h3 { margin: 20px 0 8px; font-size: 15px; }
.soft, figcaption, footer { color: var(--soft); font-size: 13.5px; }
section { margin-bottom: 40px; scroll-margin-top: 16px; }
p { margin: 0 0 10px; max-width: 82ch; }
code, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  font-size: 13px; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr));
  gap: 10px 22px; margin: 0 0 14px; padding: 14px 16px; background: var(--card);
  border-radius: 8px; }
dt { color: var(--soft); font-size: 12.5px; }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin-bottom: 12px; }
table { border-collapse: collapse; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 600; vertical-align: bottom; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line);
  vertical-align: baseline; }
.number { text-align: right; }
td.number { white-space: nowrap; }
td.best { font-weight: 700; }
td.best span { background: var(--best); padding: 1px 5px; border-radius: 4px; }
figure { margin: 0 0 16px; }
figcaption { margin-top: 4px; }
img { display: block; max-width: 100%; height: auto; border-radius: 4px;
  border: 1px solid var(--line); }
img.small { image-rendering: pixelated; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr));
  gap: 18px 26px; align-items: start; }
.plots figure { margin: 0; }
.plot svg { display: block; max-width: 100%; height: auto;
  background: transparent !important; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr));
  gap: 18px 22px; align-items: start; }
.classes { display: grid; grid-template-columns: max-content minmax(0, 1fr);
  gap: 6px 16px; align-items: center; }
.classes figure { margin: 0; }
.classes div { overflow-wrap: anywhere; max-width: 180px; font-size: 13.5px; }
details { margin-bottom: 12px; }
summary { cursor: pointer; color: var(--accent); font-size: 14px; }
.config { columns: 3 270px; margin-top: 10px; padding: 14px 16px;
  background: var(--card); border-radius: 8px; font-size: 12.5px; line-height: 1.55;
  overflow-wrap: anywhere; }
.config h3 { margin: 0 0 2px; font-size: 12.5px; color: var(--accent); }
.config div { break-inside: avoid; margin-bottom: 10px; }
.notes { padding: 10px 16px; background: var(--warn); border-radius: 8px;
  font-size: 13.5px; overflow-wrap: anywhere; }
.notes ul { margin: 4px 0; padding-left: 20px; }
.slider { display: none; gap: 12px; align-items: center; margin-bottom: 10px; }
.slider input { flex: 1; max-width: 460px; accent-color: var(--accent); }
footer { border-top: 1px solid var(--line); padding-top: 12px; }
@media screen {
  .played .slider { display: flex; }
  .played .frames { display: block; }
  .played .frames figure:not(.on) { display: none; }
  .played .frames figcaption { display: none; }
}
@media (max-width: 1080px) { .page { display: block; max-width: 1060px; }
  nav { position: static; margin-bottom: 24px; columns: 3 140px; }
  nav strong { column-span: all; } }
@media print {
  :root { --ink: #000; --soft: #444; --line: #ccc; --paper: #fff; --card: #f6f6f6;
    --best: #e4e4e4; }
  body { font-size: 11px; } .page { display: block; padding: 0; }
  nav { position: static; columns: 3; margin-bottom: 20px; }
  .wide { overflow: visible; } table { font-size: 9px; }
  figure, tr, dl { break-inside: avoid; } h2, h3 { break-after: avoid; }
}
"""

# One picture at a time, chosen by a slider. Without scripts all are shown.
SCRIPT = """
for (const box of document.querySelectorAll(".over-time")) {
  const frames = [...box.querySelectorAll("figure")];
  const slider = box.querySelector("input"), label = box.querySelector("output");
  const show = () => {
    frames.forEach((frame, k) => frame.classList.toggle("on", k === +slider.value));
    label.textContent = frames[+slider.value].querySelector("figcaption").textContent;
  };
  slider.max = frames.length - 1;
  slider.value = slider.max;
  slider.addEventListener("input", show);
  box.classList.add("played");
  show();
}
"""
