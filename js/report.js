/** Shows the text output of a node's last run. ComfyUI shows it only for its own nodes. */
import { addElement, keepUpToDate, lastOutput } from "./graph.js";
import { text } from "./language.js";

const SIZE = [520, 360];
const MIN_HEIGHT = 100;
const LINE_HEIGHT = 24;

/**
 * Adds a read-only text area with the report.
 * @param node LPNSRDoctor or LPNSRDownloadModels
 */
export function addReport(node) {
  const area = document.createElement("textarea");
  area.className = "lpnsr-report widget-expands";
  area.readOnly = true;
  area.placeholder = text("Run the workflow for a report.");
  area.dataset.captureWheel = "true"; // or Nodes 2.0 would zoom instead of scroll
  addElement(node, "lpnsr_report", area, { getMinHeight: () => MIN_HEIGHT });
  node.setSize(SIZE);
  keepUpToDate(node, [], () => (area.value = outputText(node)));
}

/**
 * Adds a line of text, which takes no space before the first run.
 * @param node LoadLPNSRModels
 */
export function addLine(node) {
  const line = document.createElement("output");
  line.className = "lpnsr-line";
  const height = () => (line.textContent ? LINE_HEIGHT : 0);
  addElement(node, "lpnsr_line", line, { margin: 0, getMinHeight: height, getMaxHeight: height });
  keepUpToDate(node, [], () => (line.textContent = outputText(node)));
}

function outputText(node) {
  return lastOutput(node)?.text?.join("\n") ?? "";
}
