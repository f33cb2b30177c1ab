/** Helpers for the features: nodes, inputs, the outputs of runs. */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

/**
 * Call `callback` after each call of a method, which other extensions may replace too.
 * @param {object} object
 * @param {string} method
 * @param {Function} callback
 */
export function after(object, method, callback) {
  const original = object[method];
  object[method] = function (...args) {
    const result = original?.apply(this, args);
    callback.apply(this, args);
    return result;
  };
}

/** @returns the node's widget with this name, or undefined. */
export function widgetOf(node, name) {
  return node.widgets.find((widget) => widget.name === name);
}

/** @returns {boolean} whether an input is connected, be it a widget's or not. */
export function isLinked(node, name) {
  return node.isInputConnected(node.findInputSlot(name));
}

/**
 * @returns a widget's value; in a subgraph, that of the outer widget that it is linked to.
 * Undefined if a node gives the value, or if uses of the subgraph have different values.
 */
export function valueOf(node, name) {
  if (!isLinked(node, name)) return widgetOf(node, name)?.value;
  const values = outerInputs(node, name).map(([outer, input]) => valueOf(outer, input));
  return values.every((value) => value === values[0]) ? values[0] : undefined;
}

/** Set a widget, or the outer one that it is linked to. Widgets linked to a node stay unchanged. */
export function setValue(node, name, value) {
  if (isLinked(node, name)) {
    for (const [outer, input] of outerInputs(node, name)) setValue(outer, input, value);
    return;
  }
  const widget = widgetOf(node, name);
  widget.value = value;
  widget.callback?.(value);
}

/**
 * @returns {[object, string][]} for an input linked to an input of the surrounding subgraph: each
 * node that uses the subgraph, and the name of that input. Else empty.
 */
function outerInputs(node, name) {
  const subgraph = node.graph;
  const link = node.getInputLink(node.findInputSlot(name));
  if (!subgraph.inputNode || String(link.origin_id) !== String(subgraph.inputNode.id)) return [];
  const input = subgraph.inputs[link.origin_slot].name;
  const { rootGraph } = subgraph;
  return [rootGraph, ...rootGraph.subgraphs.values()]
    .flatMap((graph) => graph.nodes.filter((other) => other.subgraph === subgraph))
    .map((outer) => [outer, input]);
}

/** @returns the node connected to an input, looking through Reroute nodes, or null. */
export function originOf(node, name) {
  const origin = node.graph ? node.getInputNode(node.findInputSlot(name)) : null;
  return origin?.type === "Reroute" ? originOf(origin, origin.inputs[0].name) : origin;
}

/**
 * Call `update` whenever a node's widgets, its last output or the nodes before it may have changed.
 * @param node
 * @param {string[]} widgets names of widgets
 * @param {() => void} update is called often, so it should do nothing when nothing has changed
 */
export function keepUpToDate(node, widgets, update) {
  // This is enough for the classic canvas. Nodes 2.0 never call it and need the rest.
  after(node, "onDrawBackground", update);
  for (const name of widgets) after(widgetOf(node, name), "callback", update);
  after(node, "onConnectionsChange", update);
  after(node, "onExecuted", (output) => {
    update();
    sessionStorage.setItem(placeOf(node), JSON.stringify(output));
  });
  after(node, "onConfigure", () => {
    LOADED.add(node);
    setTimeout(update); // when the other nodes of the workflow are loaded too
  });
  let stop;
  after(node, "onAdded", () => {
    api.addEventListener("graphChanged", update);
    stop = onWorkflow(update);
  });
  after(node, "onRemoved", () => {
    api.removeEventListener("graphChanged", update);
    stop?.();
  });
  update();
}

/**
 * Call `callback` each time the host has opened a workflow and restored the outputs of its nodes.
 * There is no event for that.
 * @returns {() => void} stops it
 */
function onWorkflow(callback) {
  const detached = true; // not bound to the Vue component that is being set up
  return app.extensionManager.workflow.$onAction(({ name, after: whenDone }) => {
    if (name === "openWorkflow") whenDone(() => setTimeout(callback));
  }, detached);
}

/**
 * @returns the `ui` output of the node's last run in this workflow, or undefined. The host forgets
 * it when the page is reloaded; we keep it until the tab is closed.
 */
export function lastOutput(node) {
  if (!node.graph) return undefined;
  const id = node.graph.isRootGraph ? node.id : `${node.graph.id}:${node.id}`;
  const kept = LOADED.has(node) ? JSON.parse(sessionStorage.getItem(placeOf(node))) : null;
  return app.nodeOutputs[id] ?? kept ?? undefined;
}

/** Nodes loaded from a workflow. A new node has no last run, even if its id was in use before. */
const LOADED = new WeakSet();

/** @returns {string} a storage key. It has the workflow's path, since workflows share graph ids. */
function placeOf(node) {
  const { path } = app.extensionManager.workflow.activeWorkflow ?? {};
  return `lpnsr ${path} ${node.graph.id} ${node.id}`;
}

/**
 * Show an HTML element on a node. It is saved neither in the workflow nor in the prompt.
 * @param node
 * @param {string} name
 * @param {HTMLElement} element
 * @param {object} options of `addDOMWidget`
 */
export function addElement(node, name, element, options) {
  // keeps Nodes 2.0 from dragging the node
  element.addEventListener("pointerdown", (event) => event.stopPropagation());
  const widget = node.addDOMWidget(name, name, element, { serialize: false, ...options });
  widget.serialize = false;
  // When undo replaces a node, Nodes 2.0 go on showing the element of the old one.
  keepUpToDate(node, [], () => {
    // a removed node may still have its graph, and a new node its id
    const shown = app.canvas.graph?.getNodeById(node.id) === node;
    if (element.isConnected || !shown) return;
    const place = `.lg-node[data-node-id="${node.id}"] .${element.classList[0]}`;
    document.querySelector(place)?.replaceWith(element);
  });
}
