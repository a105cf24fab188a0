// Problems in Chinese: code -> [what happened, why, what to do], filled in by translation.js. The tests read it as JSON.

export default {
  "missing_picture": ["还没有人像。", "视频需要一张人脸图片。", "请添加一张人像。"],
  "unreadable_picture": ["图片“{name}”无法读取。", "文件已损坏，或者不是图片。", "请另存为 JPEG、PNG 或 WebP 后再添加。"],
  "picture_too_large": [
    "图片有 {width}×{height} 像素，太大了。",
    "最多可读取 {most_megapixels} 百万像素，而视频画面不到一百万像素。",
    "请另存为较小的图片（例如宽 2000 像素）后再添加。"
  ],
  "picture_too_small": ["图片只有 {width}×{height} 像素，太小了。", "宽和高都至少要 {least} 像素，400 像素以上效果才好。", "请换一张更大的图片。"],
  "missing_voice": ["还没有语音。", "人像要说的话来自语音。", "请添加或录制语音。"],
  "unreadable_voice": ["语音“{name}”无法读取。", "文件已损坏，或者不是录音。", "请另存为 WAV、MP3、M4A、FLAC 或 OGG 后再添加。"],
  "no_sound_track": ["“{name}”没有声音。", "这是没有音轨的视频或图片。", "请选择有人说话的文件。"],
  "silent_voice": ["语音没有声音。", "最响处只有 {loudest_db} dB，正常说话高于 {limit_db} dB。", "请检查麦克风，或换一段录音。"],
  "voice_too_short": ["语音只有 {length_ms} 毫秒。", "至少需要 {least_ms} 毫秒，嘴才来得及动。", "请录制或选择更长的语音。"],
  "voice_too_long": [
    "语音长约 {minutes} 分钟。",
    "这里最多生成 {most_minutes} 分钟的视频。",
    "请把语音分成几段；也可以调大 LIVEAVATAR_MAX_AUDIO_S 并重新启动应用。"
  ],
  "prompt_too_long": ["提示词有 {length} 个字符，太长了。", "最多 {longest} 个字符。", "请缩短提示词。"],
  "bad_seed": ["不能使用随机种子 {seed}。", "随机种子是 0 到 {largest} 的整数。", "请换一个随机种子。"],
  "bad_steps": ["不能使用 {num_steps} 步去噪。", "该模型按 {most} 步训练，可用 1 到 {most} 步。", "请换一个步数，或选择“自动”。"],
  "unknown_engine": ["没有名为“{engine}”的引擎。", "可用的引擎：{engines}。", "请选择其中之一，或选择“自动”。"],
  "unknown_size": ["不提供画面尺寸“{size}”。", "", "请选择“自动”，或以下尺寸之一：{sizes}。"],
  "nothing_fits": [
    "[{cards} ]生成不了 {size} 的视频。",
    "显存不足。",
    "[请不要固定精度（{fixed_precision}）；或者][请选择尺寸 {smaller}，或者]改用内置引擎。"
  ],
  "engine_unavailable": ["s2v 引擎尚未设置。", "没有指定模型。", "请在“更多设置”中填写模型文件夹（见 docs/models.md），或选择其他引擎。"],
  "no_graphics_card": ["s2v 引擎需要显卡。", "没有找到显卡；用处理器生成一秒视频大约要一刻钟。", "请选择其他引擎。"],
  "not_adjustable": ["无法更改这个视频。", "只有 s2v 引擎正在生成视频时，才能更改步数和尺寸。", "请在点击“生成视频”之前设置。"],
  "queue_full": ["已有 {num_waiting} 个视频在排队。", "要等其中一些完成后才能再添加。", "请过几分钟再试。"],
  "disk_almost_full": ["磁盘即将用满。", "可用空间不到 {least_mb} MB。", "请删除不再需要的视频，然后重新点击“生成视频”。"],
  "disk_full": ["磁盘已满。", "视频无法继续写入；已生成的部分已保留。", "请删除不再需要的视频或清理磁盘，然后重新点击“生成视频”。"],
  "no_face": [
    "没有在图片中找到人脸。",
    "人脸可能太小、侧向一边、被遮挡，或者不像真人的脸。",
    "请指出嘴和眼睛的位置，或让整张图片动起来，也可以换一张图片。"
  ],
  "bad_clicks": ["标记的位置构不成一张脸。", "两个嘴角要分开，下巴在嘴的下方，眼睛在嘴的上方。", "请依次点击两个嘴角、下巴和眼睛。"],
  "interrupted": ["生成这个视频时应用被关闭了。", "已生成的部分已保留。", "请重新点击“生成视频”，生成完整的视频。"],
  "internal": ["应用内部出错。", "详情见应用日志。", "请重试。"],

  "engine_killed": [
    "引擎在工作中被外部结束。",
    "通常是机器内存用尽，系统结束了它；也可能是有人结束了它。",
    "请关闭其他程序或选择更小的尺寸，然后重新点击“生成视频”。"
  ],
  "engine_crashed": ["引擎崩溃了。", "系统以 {signal} 结束了它；出错位置记录在 engine.log 中。", "请重新点击“生成视频”，引擎会自动重启。"],
  "engine_exited": ["引擎意外退出。", "进程的退出代码是 {exit_code}；原因记录在 engine.log 中。", "请重新点击“生成视频”，引擎会自动重启。"],
  "engine_hung": [
    "引擎等了 {waited_s} 秒仍没有反应，已被结束。",
    "引擎可能卡死，或者机器太忙。",
    "请重新点击“生成视频”，引擎会自动重启。如果再次发生，请关闭其他程序；{record} 中记录了它停在哪里。"
  ],
  "engine_error": ["引擎遇到未知错误。", "错误信息：{exception}: {message}", "请重新点击“生成视频”。如果再次发生，请附上 engine.log 报告问题。"],
  "graphics_memory_full": [
    "显卡的显存已用完。",
    "引擎需要的显存多于空闲的显存，可能有其他程序也在使用显卡。",
    "请关闭其他程序或选择更小的尺寸，然后重新点击“生成视频”。"
  ],
  "out_of_memory": ["机器的内存已用完。", "引擎需要的内存多于空闲的内存。", "请关闭其他程序或选择更小的尺寸，然后重新点击“生成视频”。"],
  "host_memory_full": [
    "机器的内存不够。",
    "无法为显卡留出 {needed_bytes} 内存（CUDA 错误 {status}）。",
    "请关闭其他程序，或选择更小的尺寸。"
  ],
  "graphics_card_error": [
    "显卡出错。",
    "驱动程序在工作中报告了错误；原文见 engine.log。",
    "请重新点击“生成视频”，引擎会自动重启。如果再次发生，请重启机器，并查看系统日志中有关显卡的记录。"
  ],
  "card_not_usable": ["显卡无法使用。", "机器有显卡，但已安装的 PyTorch 无法使用它。", "请安装支持 CUDA 的 PyTorch，以及足够新的显卡驱动程序。"],
  "nccl_cuda_error": [
    "显卡之间交换数据时，一块显卡出错。",
    "驱动程序拒绝了 NCCL 库的调用，最常见的原因是显存已满。",
    "请关闭其他程序或选择更小的尺寸，然后重新点击“生成视频”。设置环境变量 NCCL_DEBUG=INFO 后，原因会写入 engine.log。"
  ],
  "nccl_system_error": [
    "显卡之间无法交换数据。",
    "系统没有给 NCCL 库共享内存或连接；常见原因是容器的 /dev/shm 太小。",
    "请用 --ipc=host 或 --shm-size=8g 启动容器。设置环境变量 NCCL_DEBUG=INFO 后，原因会写入 engine.log。"
  ],
  "port_taken": ["引擎的各部分没能连上。", "另一个程序恰好占用了网络端口。", "请重新点击“生成视频”，引擎会自动重启。"],
  "peer_waited_for": ["引擎的一部分等另一部分等得太久。", "一块显卡卡死，或者显卡之间的连接中断。", "请重新点击“生成视频”，引擎会自动重启。"],
  "peer_lost": ["引擎的一部分与另一部分失去连接。", "那一部分已结束，或者显卡之间的连接中断。", "请重新点击“生成视频”，引擎会自动重启。"],

  "machine_lost": [
    "一台参与工作的机器失去联系。",
    "已有 {seconds} 秒没有“{machine}”的消息，或者它的部分重新启动过。",
    "请检查它是否在运行、网络是否通畅；没有它，下一个视频由其余机器生成。"
  ],
  "machines_too_few": [
    "计划使用的一台机器已经不在了。",
    "现有的 {num_machines} 台机器不足以执行原来的方案。",
    "请重新点击“生成视频”，会按现有的机器重新安排。"
  ],
  "machines_missing": [
    "需要 {num_wanted} 台机器，现有 {num_here} 台。",
    "s2v 引擎设置为由所有机器共同运行。",
    "请在其他每台机器上运行：python -m liveavatar join --rdzv-endpoint {endpoint}"
  ],
  "endpoint_unusable": [
    "无法在 {endpoint} 上等待其他机器。",
    "系统的说明：{reason}。",
    "请用 --rdzv-endpoint HOST:PORT 指定本机的地址和一个空闲端口。"
  ],
  "already_running": [
    "LiveAvatar Studio 已在运行。",
    "另一个实例正在使用数据文件夹 {folder}。",
    "请使用或结束那个实例，也可以用 LIVEAVATAR_DATA_DIR 指定其他文件夹。"
  ],
  "unknown_gpus": ["无法识别显卡“{text}”。", "", "请写成 5x24、4x4090 或 2x RTX 6000 Ada 这样。可用的显卡：{cards}；也可以写显存大小（GB）。"],

  "no_such_folder": ["“{folder}”不是模型文件夹。", "它不存在，或者是一个文件。", "请下载模型：{command}"],
  "wrong_folder": ["“{folder}”不是模型文件夹。", "其中没有任何模型文件。", "请下载模型：{command}"],
  "checkpoint_one_deeper": ["模型在下一层文件夹中。", "模型在“{folder}”里面。", "请改填 {inner}"],
  "diffusers_checkpoint": ["模型的格式不对。", "这是 Diffusers 格式的模型，需要原始格式。", "请下载模型：{command}"],
  "lora_folder": ["这是适配器（LoRA）的文件夹。", "适配器要与模型一起使用，这里需要填写模型的文件夹。", "请下载模型：{command}"],
  "wrong_model": [
    "这是另一种 Wan 模型，不是语音模型。",
    "config.json 中的 model_type 是“{model_type}”，应为“s2v”。",
    "请下载到单独的文件夹：{command}"
  ],
  "wrong_weights": ["权重文件不属于语音模型。", "其中缺少语音模型的张量，或层数不符。", "请重新下载：{command}"],
  "missing_file": ["缺少文件“{name}”。", "", "请下载：{command}"],
  "damaged_file": ["文件“{name}”已损坏或不完整。", "内容与应有的不符。", "请删除它，然后重新下载：{command}"],
  "unreadable_file": ["文件“{name}”无法读取。", "系统的说明：{reason}。", "请检查文件的权限。"],
  "missing_lora": ["缺少适配器文件（LoRA）。", "没有它，模型需要更多步数，也不能边生成边播放。", "请下载：{command}"],
  "not_a_lora": ["“{name}”不是适配器（LoRA）。", "其中没有名为 lora_A 的张量。", "请下载：{command}"],
  "lora_mismatch": ["适配器与模型不匹配。", "其中的权重与模型的对不上。", "请使用为 Wan2.2-S2V-14B 发布的 liveavatar.safetensors，或者不使用适配器。"],
  "checkpoint_mismatch": [
    "模型文件互相不匹配。",
    "“{folder}”中缺少 {num_missing} 个张量，多出 {num_unknown} 个。",
    "请运行 `python -m liveavatar doctor --checkpoint DIR`，看需要重新下载哪个文件。"
  ]
};
