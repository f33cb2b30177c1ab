/**
 * The front end of the pack. It is optional: workflows do not depend on it, and it stores nothing
 * in them.
 */
import { app } from "../../scripts/app.js";
import { addSlider } from "./compare.js";
import { translateDefinition, translateNode } from "./language.js";
import { addPresets } from "./presets.js";
import { addLine, addReport } from "./report.js";
import { greyOutIdleWidgets } from "./switches.js";

const FEATURES = {
  LoadLPNSRModels: [addLine],
  LPNSRSample: [greyOutIdleWidgets, addPresets],
  LPNSRUpscale: [greyOutIdleWidgets, addPresets],
  LPNSRCompare: [addSlider],
  LPNSRDownloadModels: [addReport],
  LPNSRDoctor: [addReport],
};

app.registerExtension({
  name: "LPNSR",

  init() {
    const link = document.createElement("link");
    link.rel = "stylesheet";
    link.href = new URL("./lpnsr.css", import.meta.url).href;
    document.head.append(link);
  },

  beforeRegisterNodeDef(_, definition) {
    translateDefinition(definition);
  },

  nodeCreated(node) {
    translateNode(node);
    for (const addFeature of FEATURES[node.comfyClass] ?? []) addFeature(node);
  },
});
