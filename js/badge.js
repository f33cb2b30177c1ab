/** A badge on Load LPNSR Models: the family of models that its last run loaded. */
import { isLinked, keepUpToDate, lastOutput, widgetOf } from "./graph.js";

const FILES = ["autoencoder", "denoiser", "noise_predictor"];

/** @param node LoadLPNSRModels */
export function addBadge(node) {
  const badge = new LGraphBadge({ text: "", fgColor: "#dfeefa", bgColor: "#31587a" });
  keepUpToDate(node, FILES, () => {
    const family = loadedFamily(node);
    if (family === badge.text) return;
    badge.text = family;
    const others = node.badges.filter((other) => other !== badge);
    // In place, and told as a change of the title: Nodes 2.0 keep this list and watch the title.
    node.badges.splice(0, Infinity, ...others, ...(family ? [badge] : []));
    node.graph?.trigger("node:property:changed", {
      type: "node:property:changed",
      nodeId: node.id,
      property: "title",
      oldValue: node.title,
      newValue: node.title,
    });
    node.setDirtyCanvas(true);
  });
}

/** @returns {string} empty before a run, and when the widgets no longer have the files of that run. */
function loadedFamily(node) {
  const { lpnsr_family: family, lpnsr_files: files } = lastOutput(node) ?? {};
  const same = FILES.every(
    (name, i) => isLinked(node, name) || widgetOf(node, name).value === files?.[i],
  );
  return family && same ? family[0] : "";
}
