"use strict";
(() => {
  const byId = (name) => document.getElementById(name);
  const state = byId("state"), drop = byId("drop");
  const say = (text, bad = false) => {
    state.textContent = text;
    state.classList.toggle("bad", bad);
  };

  const load = async () => {
    if (location.protocol === "file:") {
      throw new Error("browsers load no model from a file: run `python3 -m http.server` in this " +
        "folder, and open http://localhost:8000");
    }
    ort.env.wasm.wasmPaths = new URL("ort/", location.href).href;
    ort.env.wasm.numThreads = 1; // more need headers that a plain server does not send
    const read = async (name) => {
      const reply = await fetch(name);
      if (!reply.ok) throw new Error(`${name}: ${reply.status} ${reply.statusText}`);
      return reply;
    };
    const input = await (await read("input.json")).json();
    const model = new Uint8Array(await (await read("model.onnx")).arrayBuffer());
    return { input, session: await ort.InferenceSession.create(model) };
  };

  const show = (logits, classes) => {
    const most = Math.max(...logits), powers = logits.map((logit) => Math.exp(logit - most));
    const sum = powers.reduce((a, b) => a + b, 0);
    const order = logits.map((_, i) => i).sort((a, b) => logits[b] - logits[a]);
    byId("answers").replaceChildren(...order.map((i) => {
      const row = document.createElement("tr");
      row.dataset.logit = logits[i];
      for (const text of [classes[i], `${((100 * powers[i]) / sum).toFixed(1)} %`]) {
        row.insertCell().textContent = text;
      }
      return row;
    }));
  };

  const loaded = load();
  loaded.then(() => say("Ready."), (error) => say(String(error.message || error), true));

  const classify = async (file) => {
    try {
      const { input, session } = await loaded;
      const pixels = await prepare(file, input);
      const shape = [1, input.channels, input.height, input.width];
      const start = performance.now();
      const feed = { [session.inputNames[0]]: new ort.Tensor("float32", pixels, shape) };
      const logits = Array.from((await session.run(feed))[session.outputNames[0]].data);
      const ms = performance.now() - start;
      show(logits, input.classes);
      URL.revokeObjectURL(byId("shown").src);
      byId("shown").src = URL.createObjectURL(file);
      byId("shown").hidden = false;
      say(`${file.name}: ${input.classes[logits.indexOf(Math.max(...logits))]}, ${ms.toFixed(1)} ms`);
    } catch (error) {
      byId("answers").replaceChildren();
      say(`${file.name}: ${error.message || error}`, true);
    }
  };

  const take = (files) => { if (files && files.length) classify(files[0]); };
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer.files);
  });
  byId("file").addEventListener("change", (event) => take(event.target.files));
  addEventListener("paste", (event) => take(event.clipboardData.files));
})();
