/** Loaded before lxstow itself (`node --import`): at SIGUSR2 it says on standard error how late the event loop was since the last time. */
import { monitorEventLoopDelay } from 'node:perf_hooks';

const delay = monitorEventLoopDelay({ resolution: 5 });
delay.enable();
process.on('SIGUSR2', () => {
  const ms = (nanoseconds: number) => Math.round(nanoseconds / 1e5) / 10;
  const report = {
    message: 'event loop',
    p50: ms(delay.percentile(50)),
    p99: ms(delay.percentile(99)),
    max: ms(delay.max),
  };
  process.stderr.write(`${JSON.stringify(report)}\n`);
  delay.reset();
});
