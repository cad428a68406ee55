// Names the class under the pointer and its probability, on the image and on the result. The page holds both as a
// picture in #pixels: red is the train id, green the probability, if it is known.
(() => {
  const canvas = document.createElement("canvas");
  let drawn = null;

  /** Red and green of a point of the picture, whose place is given as shares of width and height. */
  function pixel(picture, across, down) {
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (drawn !== picture.src) {
      canvas.width = picture.naturalWidth;
      canvas.height = picture.naturalHeight;
      context.drawImage(picture, 0, 0);
      drawn = picture.src;
    }
    const place = [Math.floor(across * canvas.width), Math.floor(down * canvas.height)];
    return context.getImageData(...place, 1, 1).data;
  }

  /** Where a pointer is on an image that is shown whole and centred in its box: shares of width and height. */
  function shares(image, event) {
    const box = image.getBoundingClientRect();
    const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight);
    const [width, height] = [scale * image.naturalWidth, scale * image.naturalHeight];
    return [
      (event.clientX - box.left - (box.width - width) / 2) / width,
      (event.clientY - box.top - (box.height - height) / 2) / height,
    ];
  }

  function tip() {
    let element = document.querySelector("#tip");
    if (element === null) {
      element = document.createElement("div");
      element.id = "tip";
      document.body.append(element);
    }
    return element;
  }

  function show(event) {
    const picture = document.querySelector("#pixels img");
    const image = document
      .elementsFromPoint(event.clientX, event.clientY)
      .find((element) => element.tagName === "IMG" && element.closest("#first, #image"));
    const [across, down] = image && picture?.complete ? shares(image, event) : [-1, -1];
    const inside = 0 <= across && across < 1 && 0 <= down && down < 1;
    tip().hidden = !inside;
    if (!inside) return;
    const [label, sure] = pixel(picture, across, down);
    const name = JSON.parse(picture.dataset.names)[label] ?? "no class";
    tip().textContent = picture.dataset.sure ? `${name}, ${Math.round(sure / 2.55)} %` : name;
    tip().style.left = `${Math.min(event.clientX + 14, window.innerWidth - tip().offsetWidth - 4)}px`;
    tip().style.top = `${event.clientY + 18}px`;
  }

  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
})();
