//! The program of the hello-world image: says hello, and what had to work for that.

fn main() {
    println!(
        "
Hello from longshore!

This message shows that your installation works. To print it,
 1. the longshore command asked the longshored daemon over its socket;
 2. the daemon pulled the image \"hello-world\" from a registry, checked and unpacked it;
 3. a shim made a container of it, with namespaces, a cgroup and a file system of its own;
 4. the program in it wrote these lines, which the daemon streamed to your terminal.

To try something bigger, get a shell in a container:
 $ longshore run -it debian bash
"
    );
}
