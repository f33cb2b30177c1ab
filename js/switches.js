/** Greys out widgets that have no effect with the current values of other widgets. */
import { keepUpToDate, valueOf, widgetOf } from "./graph.js";

/** Minimum number of steps with which each switch of the noise predictor has an effect. */
const MIN_STEPS = { predictor_t4: 4, predictor_t3: 3, predictor_t2: 2, use_predictor: 2 };
const MAX_STEPS = 4;

/** @param node LPNSRSample or LPNSRUpscale */
export function greyOutIdleWidgets(node) {
  const has = (name) => widgetOf(node, name);
  const switches = Object.keys(MIN_STEPS).filter(has);
  const all = [...switches, "predictor_mode", "factor"].filter(has);
  keepUpToDate(node, ["steps", "longest_side", ...all].filter(has), () => {
    const idle = idleWidgets(node, switches);
    for (const name of all) widgetOf(node, name).disabled = idle.includes(name);
  });
}

/**
 * @returns {string[]} names of the widgets that have no effect. A value that another node computes
 * is not known before a run, so no widget is assumed to be without effect because of it.
 */
function idleWidgets(node, switches) {
  const steps = valueOf(node, "steps") ?? MAX_STEPS;
  const idle = switches.filter((name) => MIN_STEPS[name] > steps);
  const on = switches.some((name) => !idle.includes(name) && valueOf(node, name) !== false);
  if (!on) idle.push("predictor_mode");
  if (widgetOf(node, "longest_side") && valueOf(node, "longest_side") > 0) idle.push("factor");
  return idle;
}
