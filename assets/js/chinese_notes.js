// Notes of a video and remarks about the machine in Chinese, filled in by translation.js. The tests read them as JSON.

export const remarks = {
  "communication_bound": "{cards} 大部分时间在等待其他显卡的数据：显卡之间的连接（PCIe 或 NVLink）已接近满负荷。设备没有故障，但视频会慢一些。请确认每块显卡都插在最快的插槽上，或改用较少的显卡生成视频。",
  "transfer_bound": "{cards} 大部分时间在等待内存中的数据：连接内存的通道（PCIe）已接近满负荷，可能是显存放不下整个模型。关闭其他程序或选择更小的尺寸，可以腾出显存。",
  "memory_bound": "{cards} 的速度取决于显存的读取速度。8 位权重（应用选项 --precision fp8）可使读取量减半。",
  "heat": "{cards} 因过热而降速，请检查风扇和通风。",
  "processor_bound": "{cards} 在等待处理器，所有核心都已占满。请结束这台机器上的其他任务。",
  "uneven": "几乎所有工作都由 {cards} 完成，其他显卡在等待。如果任务分配均匀，视频会更快完成。",
  "host_memory": "内存几乎用完，机器可能变慢，系统也可能结束程序。请关闭不需要的程序。",
  "will_not_fit": "下一个视频在 {cards} 上需要 {needed_bytes}，但只剩 {left_bytes}。请结束其他程序，否则画面会缩小。",
  "other_programs": "其他程序在 {cards} 上占用 {other_bytes}[（{programs}）]。结束它们可为更大的画面腾出显存。",
  "slices": "{cards} 是被划分显卡的切片（MIG），只能读到显存。",
  "wsl": "在 WSL 下，驱动程序不提供各程序占用的显存。",
  "programs_hidden": "驱动程序没有说明 {cards} 的显存归谁使用（在容器中很常见），无法区分本应用与其他程序。",
  "not_reported": "{cards} 不提供{fields}。",
  "lost": "{cards} 已消失：被拔出，或从总线掉线。",
  "no_memory": "{cards} 不提供显存大小。",
  "silent": "{cards} 没有响应。",
  "driver_silent": "显卡驱动程序没有响应。"
};

export const notes = {
  "first_frame": "图片有多帧，使用第一帧。",
  "turned_upright": "已按相机记录的方向把图片转正。",
  "background_filled": "图片的透明部分已填成浅灰色。",
  "sound_track": "语音取自您提供的视频的音轨。",
  "several_faces": "找到 {count} 张人脸，由最大的一张说话。",
  "whole_picture": "没有找到人脸，整张图片随语音而动。",
  "prompt_understood": "从提示词中读到：{cues}。场景需要 s2v 引擎。",
  "nothing_understood": "提示词对内置引擎没有作用：它只理解情绪、笑容和目光。场景需要 s2v 引擎。",
  "built_in_engine": "这个视频由内置引擎生成。",
  "no_steps": "内置引擎没有去噪步骤，不使用步数设置。",

  "changed": "[从第 {seconds} 秒起：][改为 {new}][（原为 {old}）][不再采用：{dropped}]。原因：{cause}[（需要 {needed_bytes}，可用 {available_bytes}）]。",
  "may_break_off": "[需要 {needed_bytes}，]可用的显存或内存只有 {available_bytes}。视频按原样继续生成，可能中断。",
  "stays_as_it_is": "视频保持原样：{plan} 需要 {needed_bytes}，可用 {available_bytes}。",
  "steps_stay": "步数不变：{num_cards} 块显卡共用权重，每块做同样多的步，{num_steps} 步无法平分。请选择 {num_cards} 的倍数。",
  "tried_again": "显存曾经用完；已释放留作备用的部分，正在重试。",
  "uncompiled": "模型未能编译，运行速度较慢（{reason}）。",
  "attention_in_16_bits": "注意力以 16 位而不是 8 位计算，因为显卡无法使用 8 位。",

  "largest_fast_enough": "{size} 是每秒能生成 {fps} 帧以上的最大尺寸。",
  "none_fast_enough": "任何尺寸都达不到每秒 {fps} 帧；{size} 是最小的尺寸。",
  "largest_that_fits": "{cards} 放不下 {asked}；放得下的最大尺寸是 {made}。",
  "sides_of_64": "{asked} 改为 {made}：该模型的边长是 64 的倍数。",
  "smaller_for_memory": "生成 {made} 而不是 {asked}：空闲 {free_bytes}，需要 {needed_bytes}。",
  "too_large": "要求的尺寸还差 {missing_bytes} 显存。",
  "fits_without_others": "如果其他程序释放占用的 {other_bytes} 显存，就能生成 {size}。",
  "would_take": "要生成 {size}，需要满足其一：{ways}。",
  "out_of_reach": "这台机器只改变一处，还不足以生成 {size}。",
  "on_processor": "没有显卡，s2v 引擎在处理器上运行。",
  "layout_avoided": "用 {num_cards} 块显卡的方案多次失败，改用较少的显卡。",
  "stays_loaded": "沿用已加载的引擎，每秒 {fps} 帧；换一种方案可达 {best_fps} 帧，但需重新加载。",
  "no_int8_attention": "8 位注意力只适用于 Hopper 显卡（H100、H200），改用 16 位。",
  "no_8_bit_weights": "8 位权重需要支持 8 位乘法的显卡，改用 16 位。",
  "pace": "最慢的一块显卡生成一段画面需要 {seconds} 秒。",
  "fp8_weights": "权重为 8 位：显存减半；公开评测的得分与 16 位相近。",
  "fp8_caches": "缓存的键和值为 8 位，大小减半；画面可能略有不同。",
  "int8_attention": "注意力以 8 位计算：速度更快，键和值所占显存减半；画面可能略有不同。",
  "one_latent_per_decode": "解码器每次只处理一帧潜变量，需要的显存较少，用时较长。",
  "tiled_decoding": "画面分两块解码，需要的显存较少；接缝处的颜色可能略有差别。",
  "in_host_memory": "有 {host_bytes} 数据放在内存中备用。",
  "text_encoder_on_processor": "文本编码器（{size_bytes}）在处理器上运行，每个新提示词运行一次。",
  "text_encoder_on_card": "文本编码器（{size_bytes}）留在第 {card} 块显卡上。"
};

export const place = "问题出在第 {number} 块显卡（共 {num_ranks} 块）。";

// What occurs in values. "{n}" stands for the number that such a term begins with.
export const terms = {
  "utilisation": "利用率",
  "temperature": "温度",
  "power": "功率",

  "memory_full": "显存或内存曾经用完",
  "memory_taken": "可用的显存或内存少于需要",
  "asked": "按您的要求",
  "loaded": "引擎加载时，空闲的显存少于计划",

  "{n} step": "{n} 步",
  "{n} steps": "{n} 步",
  "{n} steps with less detail": "{n} 步（细节较少）",
  "8-bit weights": "8 位权重",
  "weights streamed from host memory": "权重按需从内存读取",
  "8-bit caches": "8 位缓存",
  "caches in host memory": "缓存放在内存中",
  "decoded in small pieces": "分小段解码",
  "decoded in 2 tiles": "分两块解码",
  "prompt encoded on the processor": "提示词在处理器上编码",

  "calm": "平静",
  "lively": "活泼",
  "energetic": "充满活力",
  "smile": "微笑",
  "warm": "温暖",
  "serious": "严肃",
  "look left": "看左边",
  "look right": "看右边",
  "look to the person's left": "看人物的左边",
  "look to the person's right": "看人物的右边",
  "look up": "看上方",
  "look down": "看下方",
  "look at the camera": "看镜头",
  "not": "不要"
};
