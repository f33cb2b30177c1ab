/**
 * Buttons that set the presets of the LPNSR paper. PreSet-A and PreSet-B have the same widget
 * values, but PreSet-A starts from bicubic interpolation and PreSet-B from an upscale model. The
 * upscale model is connected to LPNSR Upscale itself or, for LPNSR Sample, to the preceding LPNSR
 * Pre-Upsample.
 */
import { app } from "../../scripts/app.js";
import {
  addElement,
  isLinked,
  keepUpToDate,
  originOf,
  setValue,
  valueOf,
  widgetOf,
} from "./graph.js";
import { text } from "./language.js";

const SWITCHES = ["predictor_t4", "predictor_t3", "predictor_t2", "use_predictor"];
const PRESETS = [
  {
    name: "PreSet-A",
    upscaleModel: false,
    predictor: true,
    title: () =>
      text("4 steps, predicted noise, bicubic start. Disconnects the upscale model."),
  },
  {
    name: "PreSet-B",
    upscaleModel: true,
    predictor: true,
    title: () =>
      text("4 steps, predicted noise, start from an upscale model. Connects one if needed."),
  },
  {
    name: "ResShift",
    upscaleModel: false,
    predictor: false,
    title: () => text("4 steps, random noise, bicubic start. Disconnects the upscale model."),
  },
];

/** Upscale models for PreSet-B: the published one is preferred to the bundled one. */
const STARTS = [
  "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN.pth",
  "lpnsr_lite_compact_x4.safetensors",
];
const HEIGHT = 34;
const MARGIN = 5;

/** @param node LPNSRSample or LPNSRUpscale */
export function addPresets(node) {
  const row = document.createElement("div");
  row.className = "lpnsr-presets";
  row.role = "group";
  row.ariaLabel = text("Preset");
  const buttons = PRESETS.map((preset) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = preset.name;
    button.title = preset.title();
    button.addEventListener("click", () => apply(node, preset));
    return button;
  });
  row.append(...buttons);

  addElement(node, "lpnsr_presets", row, {
    margin: MARGIN,
    getMinHeight: () => HEIGHT,
    getMaxHeight: () => HEIGHT,
  });
  node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);

  keepUpToDate(node, ["steps", "kappa", "predictor_mode", ...switchesOf(node)], () => {
    buttons.forEach((button, i) => (button.ariaPressed = String(isAt(node, PRESETS[i]))));
    // For lpnsr.css: Nodes 2.0 in front end 1.32 do not show which widgets are disabled.
    row.dataset.idle = node.widgets.flatMap((w) => (w.disabled ? w.name : [])).join(" ");
  });
}

function switchesOf(node) {
  return SWITCHES.filter((name) => widgetOf(node, name));
}

/** @returns {[string, *][]} names of widgets and their values in a preset */
function settings(node, preset) {
  const switches = switchesOf(node).map((name) => [name, preset.predictor]);
  const mode = preset.predictor ? [["predictor_mode", "sample"]] : [];
  return [["steps", 4], ["kappa", 2], ...switches, ...mode];
}

/**
 * @returns the node that pre-upsamples: LPNSR Upscale itself, or the LPNSR Pre-Upsample before LPNSR
 * Sample. It is null if none is found.
 */
function startOf(node) {
  if (node.comfyClass === "LPNSRUpscale") return node;
  const encode = originOf(node, "samples");
  const start = encode?.comfyClass === "ResShiftEncode" ? originOf(encode, "image") : null;
  return start?.comfyClass === "LPNSRPreUpsample" ? start : null;
}

function isAt(node, preset) {
  const start = startOf(node);
  return (
    settings(node, preset).every(([name, value]) => valueOf(node, name) === value) &&
    (start === null || isLinked(start, "upscale_model") === preset.upscaleModel)
  );
}

/** Apply a preset as a single undo step. */
function apply(node, preset) {
  app.canvas.emitBeforeChange();
  try {
    for (const [name, value] of settings(node, preset)) setValue(node, name, value);
    const start = startOf(node);
    if (start && isLinked(start, "upscale_model") !== preset.upscaleModel) {
      if (preset.upscaleModel) connectLoader(start);
      else start.disconnectInput("upscale_model");
    }
  } finally {
    app.canvas.emitAfterChange();
  }
  node.setDirtyCanvas(true, true);
}

/** Connect a Load Upscale Model node: preferably an unused one, else any other, else a new one. */
function connectLoader(node) {
  const loaders = node.graph.nodes.filter((n) => n.type === "UpscaleModelLoader" && n.mode === 0);
  const idle = loaders.find((loader) => !loader.isOutputConnected(0));
  const loader = idle ?? loaders[0] ?? addLoader(node);
  loader.connect(0, node, "upscale_model");
}

function addLoader(node) {
  const loader = LiteGraph.createNode("UpscaleModelLoader");
  const widget = widgetOf(loader, "model_name");
  widget.value = STARTS.find((file) => widget.options.values.includes(file)) ?? widget.value;
  loader.pos = [node.pos[0] - loader.size[0] - 60, node.pos[1]];
  while (node.graph.nodes.some((other) => overlap(loader, other))) loader.pos[1] += 40;
  node.graph.add(loader);
  return loader;
}

function overlap(a, b) {
  const gap = LiteGraph.NODE_TITLE_HEIGHT + 20;
  return (
    a.pos[0] < b.pos[0] + b.size[0] + 20 &&
    b.pos[0] < a.pos[0] + a.size[0] + 20 &&
    a.pos[1] < b.pos[1] + b.size[1] + gap &&
    b.pos[1] < a.pos[1] + a.size[1] + gap
  );
}
