/** Translates the pack's texts into the front end's language, with the files in `locales/`. */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const LOCALES = await api.getCustomNodesI18n().catch((error) => {
  console.warn("LPNSR: translations could not be loaded, so texts stay English:", error);
  return {};
});

/** @returns {object} translations of all packs into the current language, or an empty object. */
function locale() {
  return LOCALES[app.extensionManager.setting.get("Comfy.Locale")] ?? {};
}

/**
 * Translate a text. The English text is the key in `locales/<language>/main.json`.
 * @param {string} english a string literal, so that tests/e2e/test_locales.py finds it
 * @param {object} values values for the {names} in the text
 */
export function text(english, values = {}) {
  const translated = locale().LPNSR?.[english] ?? english;
  return translated.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/**
 * Front ends before 1.35 discard the translations of packs when they load their own.
 * @returns the translations of a node of this pack for such a front end, otherwise undefined.
 */
function textsOf(definition) {
  const [major, minor] = window.__COMFYUI_FRONTEND_VERSION__.split(".").map(Number);
  const losesThem = major === 1 && minor < 35;
  return losesThem && definition?.category === "LPNSR"
    ? locale().nodeDefs?.[definition.name]
    : undefined;
}

/**
 * Translate the definition of a node in place, for front ends before 1.35.
 * @param {object} definition definition of a node from /object_info
 */
export function translateDefinition(definition) {
  const texts = textsOf(definition);
  if (!texts) return;
  definition.display_name = texts.display_name;
  definition.description = texts.description;
  for (const inputs of [definition.input.required, definition.input.optional]) {
    for (const [name, [, options]] of Object.entries(inputs ?? {})) {
      options.tooltip = texts.inputs[name]?.tooltip ?? options.tooltip;
    }
  }
  definition.output_tooltips = definition.output_tooltips.map(
    (tooltip, i) => texts.outputs?.[i]?.tooltip ?? tooltip,
  );
}

/** Translate a new node, for front ends before 1.35. */
export function translateNode(node) {
  const texts = textsOf(node.constructor.nodeData);
  if (!texts) return;
  for (const input of node.inputs) {
    input.localized_name = texts.inputs[input.name]?.name ?? input.localized_name;
  }
  for (const widget of node.widgets ?? []) {
    widget.label = texts.inputs[widget.name]?.name ?? widget.label;
  }
  node.outputs.forEach((output, i) => {
    output.localized_name = texts.outputs?.[i]?.name ?? output.localized_name;
  });
}
