/** Shows the text output of a node's last run. ComfyUI shows such text only on its own nodes. */
import { addElement, keepUpToDate, lastOutput } from "./graph.js";
import { text } from "./language.js";

const SIZE = [520, 360];
const MIN_HEIGHT = 100;
const LINE_HEIGHT = 24;

/**
 * Show the text output of a node as a report that can be copied.
 * @param node LPNSRDoctor or LPNSRDownloadModels
 */
export function addReport(node) {
  const area = document.createElement("textarea");
  area.className = "lpnsr-report widget-expands";
  area.readOnly = true;
  area.placeholder = text("Run the workflow for a report.");
  area.dataset.captureWheel = "true"; // the wheel scrolls the text instead of zooming in Nodes 2.0
  addElement(node, "lpnsr_report", area, { getMinHeight: () => MIN_HEIGHT });
  node.setSize(SIZE);
  keepUpToDate(node, [], () => (area.value = textOf(node)));
}

/**
 * Show the text output of a node as one line, which takes up no space before the first run.
 * @param node LoadLPNSRModels
 */
export function addLine(node) {
  const line = document.createElement("output");
  line.className = "lpnsr-line";
  const height = () => (line.textContent ? LINE_HEIGHT : 0);
  addElement(node, "lpnsr_line", line, { margin: 0, getMinHeight: height, getMaxHeight: height });
  keepUpToDate(node, [], () => (line.textContent = textOf(node)));
}

function textOf(node) {
  return lastOutput(node)?.text?.join("\n") ?? "";
}
