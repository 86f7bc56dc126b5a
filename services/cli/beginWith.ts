/**
 * Replaces this process with one that has these V8 flags and variables, which are read only at the start. Id, input and output stay the same, and so do
 * variables that are set already. Where execve is missing (Windows), continues without them.
 */
export function beginWith(flags: string[], variables: Record<string, string>): void {
  const { execPath, execArgv, argv, env } = process;
  if (flags.every((flag) => execArgv.includes(flag))) return;
  process.execve?.(execPath, [execPath, ...flags, ...execArgv, ...argv.slice(1)], { ...variables, ...env });
}
