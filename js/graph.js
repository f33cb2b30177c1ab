/** What the features need to know of nodes, inputs and runs. */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

/**
 * Call `callback` after each call of a method that others may have set, or will.
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

/** @returns the widget of a name, or undefined. */
export function widgetOf(node, name) {
  return node.widgets.find((widget) => widget.name === name);
}

/** @returns {boolean} whether an input, of a widget or not, is connected. */
export function isLinked(node, name) {
  return node.isInputConnected(node.findInputSlot(name));
}

/**
 * @returns a widget's value, which in a subgraph may be set outside; undefined if a node gives it,
 * since only a run tells which, or if it differs between the places where the subgraph is used.
 */
export function valueOf(node, name) {
  if (!isLinked(node, name)) return widgetOf(node, name)?.value;
  const values = outerInputs(node, name).map(([outer, input]) => valueOf(outer, input));
  return values.every((value) => value === values[0]) ? values[0] : undefined;
}

/** Set a widget, in a subgraph also where it is set outside. What a node gives stays as it is. */
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
 * @returns {[object, string][]} the nodes that stand for the subgraph around a node, and the name of
 * their input that is linked to the given one; none if that is linked to a node.
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

/** @returns the node that an input comes from, through Reroute nodes; null if there is none here. */
export function originOf(node, name) {
  const origin = node.graph ? node.getInputNode(node.findInputSlot(name)) : null;
  return origin?.type === "Reroute" ? originOf(origin, origin.inputs[0].name) : origin;
}

/**
 * Keep something up to date that depends on a node's widgets, its last run and the graph before it.
 * @param node
 * @param {string[]} widgets names of widgets
 * @param {() => void} update called often; should do nothing when nothing has changed
 */
export function keepUpToDate(node, widgets, update) {
  // The classic canvas needs no more than this. With Nodes 2.0 nothing is drawn on it.
  after(node, "onDrawBackground", update);
  for (const name of widgets) after(widgetOf(node, name), "callback", update);
  after(node, "onConnectionsChange", update);
  after(node, "onExecuted", (output) => {
    update();
    sessionStorage.setItem(placeOf(node), JSON.stringify(output));
  });
  after(node, "onConfigure", () => {
    LOADED.add(node);
    setTimeout(update); // later, when the other nodes are there too
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
 * Call `callback` whenever the host has made a workflow that it loaded the active one, which may
 * take it some time, and has put back what its nodes gave. There is no event for that.
 * @returns {() => void} what ends this
 */
function onWorkflow(callback) {
  const detached = true; // from whatever part of the page runs now
  return app.extensionManager.workflow.$onAction(({ name, after: whenDone }) => {
    if (name === "openWorkflow") whenDone(() => setTimeout(callback));
  }, detached);
}

/**
 * @returns what the node's last run in this workflow gave as `ui`, or undefined. The host forgets it
 * when the page is loaded again; we do when its tab is closed.
 */
export function lastOutput(node) {
  if (!node.graph) return undefined;
  const id = node.graph.isRootGraph ? node.id : `${node.graph.id}:${node.id}`;
  const kept = LOADED.has(node) ? JSON.parse(sessionStorage.getItem(placeOf(node))) : null;
  return app.nodeOutputs[id] ?? kept ?? undefined;
}

/** Nodes that come from a workflow. A new one has no last run, whatever had its id before. */
const LOADED = new WeakSet();

/** @returns {string} a key for the node in its workflow, whose graph may have another's id. */
function placeOf(node) {
  const { path } = app.extensionManager.workflow.activeWorkflow ?? {};
  return `lpnsr ${path} ${node.graph.id} ${node.id}`;
}

/**
 * Show an element of the page on a node. It is not in the workflow, nor in the prompt.
 * @param node
 * @param {string} name
 * @param {HTMLElement} element
 * @param {object} options of `addDOMWidget`
 */
export function addElement(node, name, element, options) {
  // Nodes 2.0 would drag the node
  element.addEventListener("pointerdown", (event) => event.stopPropagation());
  const widget = node.addDOMWidget(name, name, element, { serialize: false, ...options });
  widget.serialize = false;
  // Nodes 2.0 keep the element of a node when undo puts a new one in its place
  keepUpToDate(node, [], () => {
    // a node that is gone may have its graph still, and another its id
    const shown = app.canvas.graph?.getNodeById(node.id) === node;
    if (element.isConnected || !shown) return;
    const place = `.lg-node[data-node-id="${node.id}"] .${element.classList[0]}`;
    document.querySelector(place)?.replaceWith(element);
  });
}
