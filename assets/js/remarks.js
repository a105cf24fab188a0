// Sentences about the machine in the page's language. The server sends a code, the cards, the values, and plain English.

import { gigabytes } from "./dom.js";
import { isChinese } from "./strings.js";

// What is true of several cards is said once; each function gets their names.
const englishTogether = {
  communication_bound: (cards) =>
    `${cards} compute little and wait for each other's data. ` +
    "The timestep pipeline or a tensor × layers plan sends less.",
  memory_bound: (cards) => `${cards} are limited by the speed of their memory. 8-bit weights move half as much.`,
  heat: (cards) => `${cards} slow down because they are too hot. Check fans and air flow.`,
  processor_bound: (cards) =>
    `${cards} wait for the processor, whose cores are all busy. End other work on this machine.`,
};

const chineseTogether = {
  communication_bound: (cards) => `${cards} 计算很少，主要在等待卡间数据。按时间步流水线或张量×层的方案传输更少。`,
  transfer_bound: (cards) => `${cards} 计算很少，主要在等待内存传来的权重。使用 8 位权重或更小的画面可以避免。`,
  memory_bound: (cards) => `${cards} 受显存速度限制。8 位权重的传输量只有一半。`,
  heat: (cards) => `${cards} 过热降频，请检查风扇和通风。`,
  processor_bound: (cards) => `${cards} 在等待处理器，所有核心都已占满。请结束这台机器上的其他任务。`,
  uneven: (cards) => `几乎所有工作都由 ${cards} 完成，其他显卡在等待。换一种分配方案会更快。`,
  slices: (cards) => `${cards} 是被划分显卡的切片（MIG），只能读到显存。`,
  wsl: () => "在 WSL 下，驱动不提供各程序占用的显存。",
  programs_hidden: (cards) => `驱动没有说明 ${cards} 的显存归谁使用（容器中常见），无法区分本应用与其他程序。`,
  lost: (cards) => `${cards} 已消失：被拔出或从总线掉线。`,
  no_memory: (cards) => `${cards} 不提供显存大小。`,
  silent: (cards) => `${cards} 没有响应。`,
};

const chineseSingle = {
  driver_silent: () => "显卡驱动没有响应。",
  will_not_fit: (cards, { needed, left }) =>
    `下一个视频在 ${cards} 上需要 ${gigabytes(needed)} GB，只剩 ${gigabytes(left)} GB。请结束其他程序，否则画面会缩小。`,
  other_programs: (cards, { bytes, programs }) =>
    `其他程序在 ${cards} 上占用 ${gigabytes(bytes)} GB${programs ? `（${programs}）` : ""}。结束它们可为更大的画面腾出空间。`,
  host_memory: () => "内存几乎用完，机器可能变慢或结束程序。请关闭不需要的程序。",
  not_reported: (cards, { fields }) => {
    const names = { utilisation: "占用率", temperature: "温度", power: "功率" };
    const told = fields.split(",").map((name) => names[name] ?? name);
    return `${cards} 不提供${told.join("、")}。`;
  },
};

const together = isChinese ? chineseTogether : englishTogether;
const single = isChinese ? chineseSingle : {};

/** Return one sentence per remark, or per code where it holds for several cards. */
export function sentences(remarks) {
  const told = new Map();
  for (const remark of remarks) {
    const isShared = remark.code in together && (isChinese || remarks.filter(({ code }) => code === remark.code).length > 1);
    const key = isShared ? remark.code : `${remark.code} ${remark.gpus}`;
    const known = told.get(key);
    if (known) known.gpus = [...known.gpus, ...remark.gpus];
    else told.set(key, { ...remark, isShared });
  }
  return [...told.values()].map((remark) => {
    const say = remark.isShared ? together[remark.code] : single[remark.code];
    return say ? say(cardNames(remark.gpus), remark.values) : remark.text;
  });
}

/** [0] -> "GPU 1", [0, 1, 3] -> "GPU 1, 2, 4", [0, 1, 2, 3] -> "GPU 1–4" */
function cardNames(gpus) {
  const numbers = gpus.map((index) => index + 1).sort((a, b) => a - b);
  const isRange = numbers.length > 2 && numbers.at(-1) - numbers[0] === numbers.length - 1;
  return `GPU ${isRange ? `${numbers[0]}–${numbers.at(-1)}` : numbers.join(", ")}`;
}
