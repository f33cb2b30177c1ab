/** Widgets that have no effect with the others as they are, greyed out. */
import { keepUpToDate, valueOf, widgetOf } from "./graph.js";

/** The least steps with which a switch of the predictor has an effect. */
const LEAST_STEPS = { predictor_t4: 4, predictor_t3: 3, predictor_t2: 2, use_predictor: 2 };
const MOST_STEPS = 4;

/** @param node LPNSRSample or LPNSRUpscale */
export function greyOutIdleWidgets(node) {
  const switches = Object.keys(LEAST_STEPS).filter((name) => widgetOf(node, name));
  const all = [...switches, "predictor_mode"];
  keepUpToDate(node, ["steps", ...all], () => {
    const idle = idleWidgets(node, switches);
    for (const name of all) widgetOf(node, name).disabled = idle.includes(name);
  });
}

/** @returns {string[]} names. What a link decides may have an effect. */
function idleWidgets(node, switches) {
  const steps = valueOf(node, "steps") ?? MOST_STEPS;
  const idle = switches.filter((name) => LEAST_STEPS[name] > steps);
  const on = switches.some((name) => !idle.includes(name) && valueOf(node, name) !== false);
  return on ? idle : [...idle, "predictor_mode"];
}
