// Captions of what the webcam sees: the newest frame is sent when the last answer is there, so that
// frames in between are dropped and nothing piles up.
const video = element.querySelector('video');
const said = element.querySelector('.said');
const rate = element.querySelector('.rate');
const button = element.querySelector('button');
const canvas = document.createElement('canvas');
let stream = null;

function stop(text) {
  if (stream) for (const track of stream.getTracks()) track.stop();
  stream = null;
  video.hidden = true;
  button.textContent = 'Start the webcam';
  rate.textContent = text || '';
}

async function frame() {
  const scale = Math.min(1, 480 / Math.max(video.videoWidth, video.videoHeight));
  canvas.width = Math.round(video.videoWidth * scale);
  canvas.height = Math.round(video.videoHeight * scale);
  canvas.getContext('2d').drawImage(video, 0, 0, canvas.width, canvas.height);
  return new Promise(done => canvas.toBlob(done, 'image/jpeg', 0.85));
}

async function run(mine) {
  let times = [];
  while (stream === mine) {
    if (document.hidden || !video.videoWidth) {
      await new Promise(done => setTimeout(done, 200));
      continue;
    }
    const answer = await fetch('api/caption', {method: 'POST', body: await frame()});
    if (stream !== mine) return;
    if (answer.status === 503 || answer.status === 429) {  // whose text may be no JSON
      const seconds = Number(answer.headers.get('Retry-After')) || 1;
      await new Promise(done => setTimeout(done, 1000 * seconds));
      continue;
    }
    const text = await answer.text();
    let told = {};
    try { told = JSON.parse(text); } catch { told = {error: text.slice(0, 200)}; }
    if (!answer.ok || typeof told.caption !== 'string') {
      throw new Error(told.error || `the server answered ${answer.status}`);
    }
    if (said.textContent !== told.caption) said.textContent = told.caption;
    const now = performance.now();
    times = [...times.filter(time => now - time < 3000), now];
    if (times.length > 1) {
      const each = (times.length - 1) / (now - times[0]) * 1000;
      rate.textContent = `${each.toFixed(1)} captions a second`;
    }
  }
}

button.addEventListener('click', async () => {
  if (stream) return stop();
  if (!navigator.mediaDevices) {
    return stop('The browser gives the webcam to pages of this machine or of https alone.');
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {width: 640, height: 480}});
  } catch (error) {
    return stop('There is no webcam, or the browser may not use it.');
  }
  button.textContent = 'Stop';
  video.srcObject = stream;
  video.hidden = false;
  await video.play();
  run(stream).catch(error => stop(`Stopped: ${error.message}`));
});
