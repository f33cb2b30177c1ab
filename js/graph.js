/** Helper functions for nodes: their inputs, widgets, HTML elements, and last outputs. */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

/**
 * Wrap a method, so that `callback` is called after it. Other extensions may wrap it, too.
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

/** @returns {boolean} whether an input is connected. Widgets have an input of the same name. */
export function isLinked(node, name) {
  return node.isInputConnected(node.findInputSlot(name));
}

/**
 * @returns the value of a widget. If it is linked to an input of its subgraph, the value of the
 * widget on the subgraph node. The value is undefined if another node computes it, or if several
 * instances of the subgraph have different values.
 */
export function valueOf(node, name) {
  if (!isLinked(node, name)) return widgetOf(node, name)?.value;
  const values = outerInputs(node, name).map(([outer, input]) => valueOf(outer, input));
  return values.every((value) => value === values[0]) ? values[0] : undefined;
}

/**
 * Set the value of a widget. If the widget is linked to an input of its subgraph, set the value of
 * the widget on each subgraph node. A widget that is linked to another node is not changed.
 */
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
 * Find the subgraph nodes, outside the subgraph, that provide the value of an input inside it.
 * @returns {[object, string][]} pairs of a subgraph node and the name of its input. Empty if the
 * inner input is not linked to an input of the subgraph.
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

/** @returns the node connected to an input, directly or through Reroute nodes, or null. */
export function originOf(node, name) {
  const origin = node.graph ? node.getInputNode(node.findInputSlot(name)) : null;
  return origin?.type === "Reroute" ? originOf(origin, origin.inputs[0].name) : origin;
}

/**
 * Call `update` whenever a node's widgets, its last output or its connected nodes may have changed.
 * @param node
 * @param {string[]} widgets names of widgets
 * @param {() => void} update is called often, so it should do nothing if nothing has changed
 */
export function keepUpToDate(node, widgets, update) {
  // The classic canvas calls onDrawBackground whenever it draws the node. Nodes 2.0 never call it,
  // so they need the events below.
  after(node, "onDrawBackground", update);
  for (const name of widgets) after(widgetOf(node, name), "callback", update);
  after(node, "onConnectionsChange", update);
  after(node, "onExecuted", (output) => {
    update();
    sessionStorage.setItem(placeOf(node), JSON.stringify(output));
  });
  after(node, "onConfigure", () => {
    LOADED.add(node);
    setTimeout(update); // after the other nodes of the workflow are loaded
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
 * Call `callback` each time ComfyUI has opened a workflow and restored the outputs of its nodes.
 * ComfyUI has no event for that, so this uses an action of its Vue store.
 * @returns {() => void} function that removes the callback
 */
function onWorkflow(callback) {
  const detached = true; // keeps the callback when the current Vue component is removed
  return app.extensionManager.workflow.$onAction(({ name, after: whenDone }) => {
    if (name === "openWorkflow") whenDone(() => setTimeout(callback));
  }, detached);
}

/**
 * @returns the `ui` output of the node's last run in this workflow, or undefined. ComfyUI loses the
 * output when the page is reloaded, so a copy is kept in the session storage.
 */
export function lastOutput(node) {
  if (!node.graph) return undefined;
  const id = node.graph.isRootGraph ? node.id : `${node.graph.id}:${node.id}`;
  const kept = LOADED.has(node) ? JSON.parse(sessionStorage.getItem(placeOf(node))) : null;
  return app.nodeOutputs[id] ?? kept ?? undefined;
}

/** Nodes loaded from a workflow. New nodes have no last run, even if they reuse an earlier id. */
const LOADED = new WeakSet();

/**
 * @returns {string} storage key for a node. It includes the path of the workflow, since different
 * workflows may have the same graph ids.
 */
function placeOf(node) {
  const { path } = app.extensionManager.workflow.activeWorkflow ?? {};
  return `lpnsr ${path} ${node.graph.id} ${node.id}`;
}

/**
 * Show an HTML element on a node. The element is not saved in the workflow or the prompt.
 * @param node
 * @param {string} name
 * @param {HTMLElement} element
 * @param {object} options options for `addDOMWidget`
 */
export function addElement(node, name, element, options) {
  // Otherwise Nodes 2.0 would drag the node when the user drags on the element.
  element.addEventListener("pointerdown", (event) => event.stopPropagation());
  const widget = node.addDOMWidget(name, name, element, { serialize: false, ...options });
  widget.serialize = false;
  // When undo replaces a node, Nodes 2.0 keep showing the element of the old node: replace it.
  keepUpToDate(node, [], () => {
    // A removed node may still have a graph, and its id may belong to a new node.
    const shown = app.canvas.graph?.getNodeById(node.id) === node;
    if (element.isConnected || !shown) return;
    const place = `.lg-node[data-node-id="${node.id}"] .${element.classList[0]}`;
    document.querySelector(place)?.replaceWith(element);
  });
}
