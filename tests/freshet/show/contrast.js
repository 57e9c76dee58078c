// Texts on the page whose contrast to what they stand on is under 4.5 : 1 (WCAG 2.1, 1.4.3).
(() => {
  const parts = (color) => color.match(/[\d.]+/g).map(Number);
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (c) => 0.2126 * linear(c[0] / 255) + 0.7152 * linear(c[1] / 255) + 0.0722 * linear(c[2] / 255);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = parts(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const poor = new Set();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const said = texts.currentNode.textContent.trim();
    const element = texts.currentNode.parentElement;
    if (!said || !element.getBoundingClientRect().width) continue;
    if (element.closest(".unseen, noscript, script, [hidden]")) continue;
    const style = getComputedStyle(element);
    const a = light(parts(element.closest("svg") ? style.fill : style.color));
    const b = light(ground(element));
    if ((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5) poor.add(`${element.className}: ${said.slice(0, 40)}`);
  }
  return [...poor];
})()
