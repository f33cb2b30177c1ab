/** Widgets that have no effect with the others as they are, greyed out. */
import { keepUpToDate, valueOf, widgetOf } from "./graph.js";

/** The least steps with which a switch of the predictor has an effect. */
const LEAST_STEPS = { predictor_t4: 4, predictor_t3: 3, predictor_t2: 2, use_predictor: 2 };
const MOST_STEPS = 4;

/** @param node LPNSRSample or LPNSRUpscale */
export function greyOutIdleWidgets(node) {
  const has = (name) => widgetOf(node, name);
  const switches = Object.keys(LEAST_STEPS).filter(has);
  const all = [...switches, "predictor_mode", "factor"].filter(has);
  keepUpToDate(node, ["steps", "longest_side", ...all].filter(has), () => {
    const idle = idleWidgets(node, switches);
    for (const name of all) widgetOf(node, name).disabled = idle.includes(name);
  });
}

/** @returns {string[]} names. What a link decides may have an effect. */
function idleWidgets(node, switches) {
  const steps = valueOf(node, "steps") ?? MOST_STEPS;
  const idle = switches.filter((name) => LEAST_STEPS[name] > steps);
  const on = switches.some((name) => !idle.includes(name) && valueOf(node, name) !== false);
  if (!on) idle.push("predictor_mode");
  if (widgetOf(node, "longest_side") && valueOf(node, "longest_side") > 0) idle.push("factor");
  return idle;
}
