/** The pack's texts in the language of the front end: those of `locales/`, else English. */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const LOCALES = await api.getCustomNodesI18n().catch((error) => {
  console.warn("LPNSR stays English:", error);
  return {};
});

/** What the packs have in the language that is set now; empty for a language that none has. */
function locale() {
  return LOCALES[app.extensionManager.setting.get("Comfy.Locale")] ?? {};
}

/**
 * A text of this front end. Its English is the key in `locales/<language>/main.json`.
 * @param {string} english a literal, so that tests/e2e/test_locales.py finds it
 * @param {object} values for {names} in it
 */
export function text(english, values = {}) {
  const translated = locale().LPNSR?.[english] ?? english;
  return translated.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/**
 * The texts of a node of this pack where the host does not show them itself: before 1.35 it forgets
 * what packs bring for a language when it loads its own texts of it. Else undefined.
 */
function textsOf(definition) {
  const [major, minor] = window.__COMFYUI_FRONTEND_VERSION__.split(".").map(Number);
  const forgets = major === 1 && minor < 35;
  return forgets && definition?.category === "LPNSR"
    ? locale().nodeDefs?.[definition.name]
    : undefined;
}

/**
 * Put them where the host looks next: into the definition,
 * @param {object} definition of a node, as /object_info gives it
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

/** and on a new node. */
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
