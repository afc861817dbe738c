// Browsers start no worker from file://. There, a hidden frame runs the search worker's script instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      this.frame = frame;
      const page = frame.contentWindow;
      this.page = page;
      this.listener = event => {
        if (event.source === page) this.dispatchEvent(new MessageEvent("message", { data: event.data }));
      };
      window.addEventListener("message", this.listener);
      page.document.open();
      page.document.write(
        "<script>" +
          "postMessage = parent.postMessage.bind(parent);" +
          "importScripts = (...urls) => urls.reduce((done, url) => done.then(() => new Promise(ready => {" +
          "const script = document.createElement('script'); script.src = url; script.onload = ready;" +
          "document.body.appendChild(script); })), Promise.resolve());" +
          "<\/script><script src=\"" + url + "\"><\/script>"
      );
      page.document.close();
      this.loaded = new Promise(ready => frame.addEventListener("load", ready));
    }
    postMessage(data) {
      this.loaded.then(() => this.page.dispatchEvent(new MessageEvent("message", { data, source: window })));
    }
    terminate() {
      window.removeEventListener("message", this.listener);
      this.frame.remove();
    }
  };
}
