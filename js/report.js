// Shows the text that a node of this pack reports, for reading and copying. Core does this for its own "Preview as Text"
// alone.
import { app } from "../../scripts/app.js";
import { ComfyWidgets } from "../../scripts/widgets.js";

const NODES = ["LPNSRDownloadModels", "LPNSRDoctor"];
const WIDTH = 520;
const HEIGHT = 360;

app.registerExtension({
  name: "LPNSR.Report",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!NODES.includes(nodeData.name)) return;
    const onExecuted = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      if (!output?.text) return;
      let widget = this.widgets?.find((w) => w.name === "report_text");
      if (!widget) {
        widget = ComfyWidgets.STRING(this, "report_text", ["STRING", { multiline: true }], app).widget;
        widget.inputEl.readOnly = true;
        widget.serialize = false; // not in the workflow,
        widget.options.serialize = false; // nor in the prompt
        this.setSize([Math.max(this.size[0], WIDTH), Math.max(this.size[1], HEIGHT)]);
      }
      widget.value = output.text.join("\n");
    };
  },
});
