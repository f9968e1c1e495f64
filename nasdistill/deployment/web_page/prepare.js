"use strict";
// From a picture's file to the numbers that the model takes, as input.json describes it and Pillow
// computes it: the same pixels but for single ones that are one or two of 255 off, of pictures that
// browsers decode alike (PNG, GIF, BMP, small JPEG).

// Weights of the input for each output pixel along one axis: triangles as wide as a step, at least
// two pixels, in fixed point of 22 bits (Pillow's bilinear resampling with anti-aliasing).
const weightsOf = (inSize, from, to, outSize) => {
  const step = (to - from) / outSize, support = Math.max(step, 1), weights = [];
  for (let out = 0; out < outSize; out++) {
    const centre = from + (out + 0.5) * step;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(inSize, Math.trunc(centre + support + 0.5));
    const row = [];
    for (let at = first; at < last; at++) {
      row.push(Math.max(0, 1 - Math.abs((at - centre + 0.5) / support)));
    }
    const sum = row.reduce((a, b) => a + b, 0);
    weights.push({ first, row: row.map((w) => Math.floor((w / sum) * 4194304 + 0.5)) });
  }
  return weights;
};

const rounded = (sum) => Math.max(0, Math.min(255, Math.floor(sum / 4194304)));

// image: {width, height, planes}, planes of Uint8Array; box: [left, top, right, bottom].
const resize = (image, width, height, box) => {
  const across = weightsOf(image.width, box[0], box[2], width);
  const down = weightsOf(image.height, box[1], box[3], height);
  const planes = image.planes.map((plane) => {
    const narrow = new Uint8Array(width * image.height);
    for (let y = 0; y < image.height; y++) {
      for (let x = 0; x < width; x++) {
        let sum = 2097152;
        const { first, row } = across[x];
        for (let i = 0; i < row.length; i++) sum += plane[y * image.width + first + i] * row[i];
        narrow[y * width + x] = rounded(sum);
      }
    }
    const small = new Uint8Array(width * height);
    for (let y = 0; y < height; y++) {
      const { first, row } = down[y];
      for (let x = 0; x < width; x++) {
        let sum = 2097152;
        for (let i = 0; i < row.length; i++) sum += narrow[(first + i) * width + x] * row[i];
        small[y * width + x] = rounded(sum);
      }
    }
    return small;
  });
  return { width, height, planes };
};

// The middle of an image in the proportions of the result, at its size.
const fit = (image, width, height) => {
  if (image.width === width && image.height === height) return image;
  const wanted = width / height;
  let w = image.width, h = image.height;
  if (w / h > wanted) w = wanted * h; else if (w / h < wanted) h = w / wanted;
  const left = (image.width - w) * 0.5, top = (image.height - h) * 0.5;
  return resize(image, width, height, [left, top, left + w, top + h].map(Math.fround));
};

// Large JPEGs are decoded at a half, quarter or eighth of their size; means of blocks come close.
const reduced = (image, [height, width]) => {
  const scale = Math.min(Math.floor(image.width / width), Math.floor(image.height / height));
  const by = [8, 4, 2].find((each) => scale >= each);
  if (!by) return image;
  const w = Math.ceil(image.width / by), h = Math.ceil(image.height / by);
  const planes = image.planes.map((plane) => {
    const small = new Uint8Array(w * h);
    for (let y = 0; y < h; y++) {
      for (let x = 0; x < w; x++) {
        let sum = 0, count = 0;
        for (let j = y * by; j < Math.min(image.height, (y + 1) * by); j++) {
          for (let i = x * by; i < Math.min(image.width, (x + 1) * by); i++) {
            sum += plane[j * image.width + i];
            count += 1;
          }
        }
        small[y * w + x] = Math.round(sum / count);
      }
    }
    return small;
  });
  return { width: w, height: h, planes };
};

// Decodes a file upright, over white, without colour profiles.
const decode = async (file) => {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image",
    colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const planes = [0, 1, 2].map((channel) => {
    const plane = new Uint8Array(data.length / 4);
    for (let i = 0; i < plane.length; i++) plane[i] = data[4 * i + channel];
    return plane;
  });
  return { width: bitmap.width, height: bitmap.height, planes };
};

const luma = ([red, green, blue]) =>
  red.map((r, i) => (r * 19595 + green[i] * 38470 + blue[i] * 7471 + 32768) >>> 16);

// float32 [1, channels, height, width] in [0, 1].
const prepare = async (file, input) => {
  let image = await decode(file);
  if (file.type === "image/jpeg") image = reduced(image, input.jpeg_draft);
  if (input.channels === 1) image.planes = [luma(image.planes)];
  for (const [height, width] of input.sizes) image = fit(image, width, height);
  const size = input.height * input.width, pixels = new Float32Array(input.channels * size);
  image.planes.forEach((plane, c) => plane.forEach((v, i) => { pixels[c * size + i] = v / 255; }));
  return pixels;
};
