# Runs a daemon that makes virtual machines where the kernel cannot listen for their agents (no vhost_vsock): the socket that it asks for is its
# standard input, and bind and listen do nothing to that one. LXD and Incus end otherwise, although no machine runs. Debian always has this perl.
use strict;

my ($programs, @command) = @ARGV;
my ($afVsock, $sockStream) = (40, 1);
my ($socket, $bind, $listen, $prctl) = (41, 49, 50, 157);    # x86_64
my ($setSeccomp, $filterMode) = (22, 2);

# struct sock_filter of linux/bpf_common.h: code, jump if true, jump if false, k. A word of struct seccomp_data is loaded, compared, or answered with.
sub load { pack 'SCCL', 0x20, 0, 0, $_[0] }
sub equals { pack 'SCCL', 0x15, $_[1], $_[2], $_[0] }
sub answer { pack 'SCCL', 0x06, 0, 0, $_[0] }
my ($number, $architecture, $first) = map { load($_) } 0, 4, 16;

close STDIN;
if (socket STDIN, $afVsock, $sockStream, 0) {
    my @filter = (
        $architecture, equals(0xc000003e, 0, 9),
        $number, equals($socket, 0, 2),
        $first, equals($afVsock, 4, 5),
        equals($bind, 1, 0), equals($listen, 0, 3),
        $first, equals(0, 0, 1),
        answer(0x00050000),                                  # SECCOMP_RET_ERRNO with 0: done
        answer(0x7fff0000),                                  # SECCOMP_RET_ALLOW
    );
    my $instructions = join '', @filter;
    my $program = pack 'S x6 P', scalar @filter, $instructions;
    syscall($prctl, $setSeccomp, $filterMode, $program) == 0 or die "no seccomp filter: $!";
    $ENV{PATH} = "$programs:$ENV{PATH}";
} else {
    open STDIN, '<', '/dev/null';
}
exec @command or die "$command[0]: $!";
