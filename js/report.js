/** What a node's last run told as text. Core shows that of its own nodes alone. */
import { addElement, keepUpToDate, lastOutput } from "./graph.js";
import { text } from "./language.js";

const SIZE = [520, 360];
const MIN_HEIGHT = 100;
const LINE_HEIGHT = 24;

/**
 * A report, to read and to copy.
 * @param node LPNSRDoctor or LPNSRDownloadModels
 */
export function addReport(node) {
  const area = document.createElement("textarea");
  area.className = "lpnsr-report widget-expands";
  area.readOnly = true;
  area.placeholder = text("Run the workflow for a report.");
  area.dataset.captureWheel = "true"; // else Nodes 2.0 zoom
  addElement(node, "lpnsr_report", area, { getMinHeight: () => MIN_HEIGHT });
  node.setSize(SIZE);
  keepUpToDate(node, [], () => (area.value = told(node)));
}

/**
 * One line, which takes no room before a run.
 * @param node LoadLPNSRModels
 */
export function addLine(node) {
  const line = document.createElement("output");
  line.className = "lpnsr-line";
  const height = () => (line.textContent ? LINE_HEIGHT : 0);
  addElement(node, "lpnsr_line", line, { margin: 0, getMinHeight: height, getMaxHeight: height });
  keepUpToDate(node, [], () => (line.textContent = told(node)));
}

function told(node) {
  return lastOutput(node)?.text?.join("\n") ?? "";
}
